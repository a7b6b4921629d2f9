"""Milvus Lite as a process of its own: started, found again, shared and ended.

Lite is a Python server; its threads in our process would stall the event loop by 240 ms and more a search. Three
files in the data folder carry the state, all held by advisory locks that the kernel frees when a process dies:

- `milvus-lite.json`: pid, port and path of the server; locked by the server for as long as it lives
- `milvus-lite.users`: a shared lock for each process that uses it
- `milvus-lite.start`: one process at a time looks and starts

Whoever leaves last ends the server. One whose users were all killed ends by itself after `IDLE` seconds, and is used
again by whoever comes before that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio

from afterword.errors import IndexUnavailable

IDLE = 10.0  # seconds that a server outlives its last user
POLL = 0.05  # seconds between two looks at a lock
STOP = 5.0  # seconds that a server gets to end before it is killed
LOG_LIMIT = 1_000_000  # bytes; a longer log is begun anew at the next start
DAMAGED, LOCKED = 3, 4  # exit codes of milvus_lite_server, which only the process itself may import
OWN_NAMES = {"LOCK", "collections", "databases", ".database-staging"}  # what Lite keeps in its folder
MEMTABLE = "2000000"  # bytes held unindexed: 10,000 unindexed rows take 350 ms a search, indexed ones 12 ms


@dataclass(frozen=True, slots=True)
class Served:
    """A living server as its state file tells of it. Port 0: it is still starting."""

    pid: int
    port: int
    path: str


class LiteProcess:
    """The Milvus Lite server of one folder, shared by all processes on the same data folder."""

    def __init__(self, path: Path, data_dir: Path, *, start_timeout: float = 60.0, idle: float = IDLE) -> None:
        self._path = path.absolute()
        self._state = data_dir / "milvus-lite.json"
        self._users_file = data_dir / "milvus-lite.users"
        self._start_file = data_dir / "milvus-lite.start"
        self.log = data_dir / "milvus-lite.log"
        self._start_timeout = start_timeout
        self._idle = idle
        self._users: int | None = None
        self._child: int | None = None
        self._one = anyio.Lock()

    async def address(self) -> str:
        """Where the server listens; starts it if there is none. Cancelling leaves a start under way to the next call.

        Raises `IndexUnavailable`.
        """
        async with self._one:
            try:
                with anyio.fail_after(self._start_timeout), _opened(self._start_file) as start:
                    await _lock(start, fcntl.LOCK_EX)
                    await self._join()
                    return f"http://127.0.0.1:{await self._serving()}"
            except TimeoutError:
                raise self._trouble(f"Milvus Lite did not start within {self._start_timeout:g} s") from None
            except OSError as error:
                raise self._trouble(f"Milvus Lite can't be started: {error}") from error

    async def replace(self, *, drop: bool = False) -> None:
        """End a server that does not answer, or with `drop` one whose files are damaged, and these with it.

        `address` starts another.
        """
        async with self._one:
            served = self.served()
            if served is not None:
                await self._end(served.pid, signal.SIGKILL)
            if drop:
                self._drop()

    async def aclose(self) -> None:
        """Leave; the last one to leave ends the server."""
        users, self._users = self._users, None
        if users is None:
            return
        with anyio.CancelScope(shield=True):
            fcntl.flock(users, fcntl.LOCK_UN)
            last = False
            with anyio.move_on_after(1.5 * POLL):  # the server looks for users by taking this lock for a moment
                await _lock(users, fcntl.LOCK_EX)
                last = True
            if last and (served := self.served()) is not None:
                await self._end(served.pid)
            os.close(users)
            self._reap()

    def served(self) -> Served | None:
        """The living server of this data folder, whichever process started it."""
        try:
            with _opened(self._state) as state:
                if _try_lock(state, fcntl.LOCK_SH):
                    return None
                found = json.loads(os.pread(state, 10_000, 0) or b"{}")
        except (FileNotFoundError, ValueError):
            return None
        return Served(found["pid"], found["port"], found["path"]) if found else None

    async def _join(self) -> None:
        if self._users is None:
            users = os.open(self._users_file, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                # a server that is just ending for want of users holds this lock until it is gone
                await _lock(users, fcntl.LOCK_SH)
            except BaseException:
                os.close(users)
                raise
            self._users = users

    async def _serving(self) -> int:
        """The port of a server that is ready. A damaged folder is dropped, once: the ledger can fill it again."""
        for attempt in (1, 2):
            code = await self._start()
            served = self.served()
            if served is not None and served.port:
                if served.path == str(self._path):
                    return served.port
                raise self._trouble(f"Milvus Lite serves {served.path} for this data folder, not {self._path}")
            if code == LOCKED:
                raise self._trouble(f"another program has {self._path} open")
            if code == DAMAGED and attempt == 1:
                self._drop()
                continue
            break
        raise self._trouble(f"Milvus Lite ended while it started (exit code {code})")

    async def _start(self) -> int | None:
        """Wait until a server is ready (None), starting one if none lives, or until that one ended (its exit code)."""
        self._reap()
        if self.served() is None and self._child is None:
            self._child = self._spawn()
        while True:
            served = self.served()
            if served is not None and served.port:
                return None
            code = self._reap()
            if self._child is None and served is None:
                return code
            await anyio.sleep(POLL)

    def _spawn(self) -> int:
        if self._path.is_file():
            raise self._trouble(f"{self._path} is a file; Milvus Lite keeps a folder (it can't read files of its 2.x)")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        module = "afterword.index.milvus_lite_server"
        arguments = [sys.executable, "-m", module, "--path", str(self._path), "--state", str(self._state)]
        arguments += ["--users", str(self._users_file), "--idle", str(self._idle)]
        fresh = self.log.exists() and self.log.stat().st_size > LOG_LIMIT
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND)
        environment = {"MILVUS_LITE_MEMTABLE_MEMORY_LIMIT_BYTES": MEMTABLE, "OMP_NUM_THREADS": "1", **os.environ}
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # a session of its own: Ctrl-C in our terminal must not reach it, and its children can be ended with it
        return os.posix_spawn(sys.executable, arguments, environment, file_actions=actions, setsid=True)

    def _reap(self) -> int | None:
        """The exit code of the server that this process started, if it ended since the last look."""
        if self._child is None:
            return None
        try:
            pid, status = os.waitpid(self._child, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._child, 0
        if pid == 0:
            return None
        self._child = None
        return os.waitstatus_to_exitcode(status)

    async def _end(self, pid: int, *signals: signal.Signals) -> None:
        for number in signals or (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
            with anyio.move_on_after(STOP):
                while self.served() is not None:  # noqa: ASYNC110 - a file lock has no event
                    await anyio.sleep(POLL)
                break
        self._reap()

    def _drop(self) -> None:
        names = {child.name for child in self._path.iterdir()}
        if not names <= OWN_NAMES:
            raise self._trouble(f"{self._path} holds other things than Milvus Lite's ({', '.join(sorted(names)[:3])})")
        shutil.rmtree(self._path)

    def _trouble(self, cause: str) -> IndexUnavailable:
        return IndexUnavailable(cause, fix=f"Read {self.log}, or set AFTERWORD_MILVUS_URI to another path or to none.")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _lock(descriptor: int, kind: int) -> None:
    while not _try_lock(descriptor, kind):  # noqa: ASYNC110 - a file lock has no event
        await anyio.sleep(POLL)
