"""The server process of the campaigns: the product as `afterword serve --no-page` runs it, its ports wrapped in kill points.

    python -m bench.crash_server

reads one order a line from standard input (JSON, the fields of `Order`), forks a server for it from a process that
has only imported, and says on standard output when it is ready and when it is dead. A fork starts in a tenth of the
time that the imports take; everything that a crash can touch (files, sockets, threads, the event loop) is made anew.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afterword.testing.kill_points import (
    KillOrder,
    KillSwitch,
    watched_embedder,
    watched_index,
    watched_ledger,
    watched_llm,
)
from afterword.testing.kill_statements import watch_statements

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.settings import Settings

WARM = (
    "afterword.interfaces.http",
    "afterword.interfaces.server",
    "afterword.wiring",
    "afterword.chat",
    "afterword.memory",
    "afterword.schedule",
    "afterword.worker",
    "afterword.backfill",
    "afterword.consolidate",
    "afterword.forget",
    "afterword.reconsolidate",
    "afterword.ledger",
    "afterword.index.exact",
    "afterword.llms.openai",
    "afterword.llms.quoting",
    "afterword.embedders.openai",
    "alembic.command",
    "alembic.config",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "openai.resources.chat.completions.completions",
    "openai.resources.embeddings",
    "httpcore2",
    "numpy.ma",
    "truststore",
    "uvicorn.lifespan.off",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
)
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """A server to run: its settings, and where it shall die ("" point: nowhere by itself)."""

    settings: dict[str, Any]
    note: str
    point: str = ""
    nth: int = 1
    user: str = ""

    def line(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def opening(order: Order) -> Callable[[Settings], AbstractAsyncContextManager[AsyncMemory]]:
    """What opens the memory: the product's wiring, with kill points around the ports where the order names one."""
    from afterword.wiring import Around, open_memory  # noqa: PLC0415 (the parent imports it when it has forked nothing)

    if not order.point:
        return open_memory
    switch = KillSwitch(KillOrder.parse(order.point, order.nth, order.user), Path(order.note))
    watch_statements(switch)
    around = Around(
        ledger=lambda ledger: watched_ledger(ledger, switch),
        index=lambda index: watched_index(index, switch),
        llm=lambda llm: watched_llm(llm, switch),
        embedder=lambda embedder: watched_embedder(embedder, switch),
    )
    return partial(open_memory, around=around)


def say(**message: Any) -> None:
    os.write(1, (json.dumps(message) + "\n").encode())


def run(order: Order) -> None:
    """Serve until the order's point is reached, or a signal."""
    from afterword.interfaces.server import serve  # noqa: PLC0415
    from afterword.settings import Settings  # noqa: PLC0415

    settings = Settings(**order.settings)
    asyncio.run(
        serve(settings, page=False, announce=lambda address: say(ready=address.strip("/")), opening=opening(order))
    )


def die_with_parent() -> None:
    """So that no server outlives its campaign (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def child(order: Order) -> None:
    die_with_parent()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    code = 1
    try:
        run(order)
        code = 0
    except BaseException as error:  # noqa: BLE001 (the edge of the process)
        say(failed=f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def main() -> None:
    die_with_parent()
    for module in WARM:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    say(warm=os.getpid())
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            child(order)
        say(started=pid)
        _, status = os.waitpid(pid, 0)
        say(died=pid, signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


if __name__ == "__main__":
    main()
