"""The program that the Milvus Lite process runs: `python -m afterword.index.milvus_lite_server`.

It holds an exclusive lock on the state file for as long as it lives, so whoever finds that file unlocked knows that
what stands in it is stale; and it ends by itself when no process has held the users' lock for a while, so a killed
server leaves no orphan behind for long. Locks are advisory (`flock`): the kernel frees them however a process ends.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from milvus_lite.adapter.grpc.server import start_server_in_thread  # type: ignore[import-untyped]
from milvus_lite.exceptions import DataDirLockedError  # type: ignore[import-untyped]

DAMAGED = 3  # the folder can't be opened
LOCKED = 4  # a process that is none of ours has the folder open
SERVED = 5  # another process of ours serves it already
CHECK = 0.5  # seconds between two looks for users


def try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_state(state: int) -> bool:
    """Tries for a second: whoever looks whether a server lives holds a shared lock for a moment."""
    for _ in range(20):
        if try_lock(state, fcntl.LOCK_EX):
            return True
        time.sleep(0.05)
    return False


def publish(descriptor: int, path: str, port: int) -> None:
    """Write who serves what. Port 0: still starting."""
    content = json.dumps({"pid": os.getpid(), "port": port, "path": path}).encode()
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def wait_until_unused(users: int, idle: float, stop: threading.Event) -> None:
    """Return when told to stop, or when nobody used the server for `idle` seconds; then it holds the users' lock."""
    unused = 0.0
    while not stop.wait(CHECK):
        if not try_lock(users, fcntl.LOCK_EX):
            unused = 0.0
            continue
        unused += CHECK
        if unused >= idle:
            return
        fcntl.flock(users, fcntl.LOCK_UN)


def serve(path: str, state: int, users: int, idle: float) -> int:
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        server, database, port = start_server_in_thread(path, host="127.0.0.1", port=0)
    except DataDirLockedError:
        return LOCKED
    except (OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"can't open {path}: {error}\n")
        return DAMAGED
    publish(state, path, port)
    wait_until_unused(users, idle, stop)
    server.stop(grace=1).wait(2)
    database.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    for name in ("--path", "--state", "--users"):
        parser.add_argument(name, required=True)
    parser.add_argument("--idle", type=float, required=True, help="end after this many seconds without a user")
    options = parser.parse_args(arguments)
    state = os.open(options.state, os.O_RDWR | os.O_CREAT, 0o600)
    if not lock_state(state):
        return SERVED
    publish(state, options.path, 0)
    users = os.open(options.users, os.O_RDWR | os.O_CREAT, 0o600)
    return serve(options.path, state, users, options.idle)


if __name__ == "__main__":
    sys.exit(main())
