"""One server a data folder: a locked file that names the server's process and address.

The lock is the operating system's (`flock`), so that a killed server leaves none behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from afterword.errors import LedgerError, LedgerInUse

if sys.platform != "win32":
    import fcntl

FILE = "server.json"


@contextmanager
def only_server(data_dir: Path) -> Iterator[Callable[[str], None]]:
    """Hold the folder while inside; the value writes down the address. Raises `LedgerInUse` with the other's address.

    Raises `LedgerError` when the folder can't be made or written. On Windows nothing is held.
    """
    path = data_dir / FILE
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise LedgerError(
            f"the data folder {data_dir} can't be written ({error.strerror}): choose another with --data-dir"
        ) from error
    try:
        if not _lock(handle):
            address = _address(path)
            where = f" at {address}" if address else ""
            raise LedgerInUse(
                f"a server already runs on {data_dir}{where}: use that one, or choose another folder with --data-dir",
                address,
            )
        yield lambda address: _write(handle, {"pid": os.getpid(), "address": address})
        _write(handle, {})
    finally:
        os.close(handle)


def running_server(data_dir: Path) -> str | None:
    """The address of the server that runs on this folder ("" while it starts); None when there is none."""
    path = data_dir / FILE
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _lock(handle) else _address(path)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _address(path: Path) -> str:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text("utf-8"))
        if isinstance(found, dict):
            return str(found.get("address", ""))
    return ""


def _write(handle: int, content: dict[str, object]) -> None:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)
    os.write(handle, json.dumps(content).encode())
