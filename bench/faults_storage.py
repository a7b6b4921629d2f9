"""Faults of what the ledger lies on: a full, read-only or locked disk, a damaged file, a clock that goes back."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.faults_house import (
    STORM,
    Form,
    Reply,
    Row,
    Server,
    arguments,
    compared,
    kept,
    models,
    others,
    refused,
    serving,
)

if TYPE_CHECKING:
    from afterword.testing import FakeOpenAI

DAY = 24 * 3600
SMALL_DISK = "8m"
FULL_AFTER = 40  # pages that a limited file may still grow by


async def full(folder: Path, form: Form) -> Row:
    """A disk without a byte left, while the server runs and while a reply is written."""
    with disk(folder / "disk") as mounted:
        if mounted is None:
            return await _full_by_pages(folder, form)
        data, ballast = mounted / "data", mounted / "ballast"
        async with models() as (llm, _), serving(data, llm.base_url) as server:
            return await _fill(server, form, partial(fill_up, ballast), ballast.unlink, "tmpfs")


async def _full_by_pages(folder: Path, form: Form) -> Row:
    data, limit = folder / "data", folder / "pages"
    limit.write_text("0")

    def fill() -> None:
        with sqlite3.connect(data / "ledger.db") as ledger:
            limit.write_text(str(ledger.execute("PRAGMA page_count").fetchone()[0]))
        ledger.close()

    wrapped = {"FAULTS_PAGES": str(limit)}
    async with models() as (llm, _), serving(data, llm.base_url, wrapped=wrapped) as server:
        return await _fill(server, form, fill, lambda: limit.write_text("0"), "max_page_count")


def fill_up(ballast: Path) -> None:
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (100_000, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)


async def _fill(server: Server, form: Form, fill: Callable[[], object], free: Callable[[], object], how: str) -> Row:
    row, user = Row(), f"{STORM}-full"
    await server.chat(user, "I moved to Oslo.")
    before = await others(server, form.samples, chats=False)
    fill()
    refusals: list[Reply] = []
    for number in range(60):  # the log's file has room for a few more, so it takes some
        reply = await server.chat(user, f"I have been to town {number}. " + "A long way. " * 2000)
        if reply.why:
            refusals.append(reply)
        if len(refusals) == 2:
            break
    row.seen = refusals[0].seen if refusals else ""
    compared(row, before, await others(server, form.samples, chats=False))
    row.work = "; ".join(await server.trouble())
    free()
    began = time.monotonic()
    again = [await server.chat(user, "", again=turn) for turn in await server.unanswered(user)]
    last = await server.chat(user, "I am back.")
    row.healed = await server.settled(user) and last.done and all(reply.done for reply in again)
    row.healed_seconds = round(time.monotonic() - began, 1)
    row.kept = kept(server.data, server.said) and await server.stop() == 0 and kept(server.data, server.said)
    row.figures = {"how": how, "refused": len(refusals), "kept_without_a_reply": len(again)}
    return row


async def read_only(folder: Path, form: Form) -> Row:
    """A folder that may not be written, with a ledger in it: the start is refused."""
    row = Row()
    with disk(folder / "disk") as mounted:
        home = mounted or folder
        data = home / "data"
        if mounted is None and os.geteuid() == 0:
            return Row(skipped="root writes anywhere, and nothing can be mounted here")
        async with models() as (llm, _):
            async with serving(data, llm.base_url) as server:
                await server.chat(STORM, "I moved to Oslo.")
                await server.stop()
            _writable(mounted, data, may=False)
            code, row.seen = await refused(arguments(data, llm.base_url))
            _writable(mounted, data, may=True)
            row.kept = kept(data, server.said)
            row.healed = code == 1 and await _starts(data, llm.base_url, server)
    return row


def _writable(mounted: Path | None, data: Path, *, may: bool) -> None:
    if mounted is not None:
        subprocess.run(["mount", "-o", f"remount,{'rw' if may else 'ro'}", str(mounted)], check=True)
        return
    for path in data.iterdir():
        path.chmod(0o600 if may else 0o400)
    data.chmod(0o700 if may else 0o500)


async def locked(server: Server, llm: FakeOpenAI, form: Form) -> Row:
    """Another program holds the ledger's write lock for longer than anybody waits."""
    row, user, data = Row(), f"{STORM}-locked", server.data
    await server.chat(user, "I moved to Oslo.")
    before = await others(server, form.samples, chats=False)
    browser = sqlite3.connect(data / "ledger.db", isolation_level=None)
    browser.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    replies = await asyncio.gather(*(server.chat(user, f"I saw town {n}.", f"chat{n}") for n in range(20)))
    waited = time.monotonic() - began
    row.seen = next((reply.seen for reply in replies if reply.why), "")
    compared(row, before, await others(server, form.samples, chats=False))
    browser.execute("ROLLBACK")
    browser.close()
    began = time.monotonic()
    last = await server.chat(user, "I am back.")
    row.healed = last.done and await server.settled(user)
    row.healed_seconds = round(time.monotonic() - began, 1)
    row.kept = kept(data, server.said)
    row.figures = {"refused": sum(bool(reply.why) for reply in replies), "seconds_for_20": round(waited, 1)}
    return row


# ── a damaged file ─────────────────────────────────────────────────────────────────────────────────────────────────


def _cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"this is a letter, not a ledger. " * 4)


async def damaged(damage: Callable[[Path], None], folder: Path, form: Form) -> Row:
    """The file is spoilt between two runs: a clear refusal that leaves it alone; with a backup all goes on."""
    row, data = Row(), folder / "data"
    path, backup = data / "ledger.db", folder / "backup.db"
    async with models() as (llm, _):
        async with serving(data, llm.base_url) as server:
            for number in range(3):
                await server.chat(STORM, f"I moved to town {number}. " + "It is far. " * 400)
            await server.settled(STORM)
            await server.stop()
        shutil.copy(path, backup)
        damage(path)
        spoilt = path.read_bytes()
        code, row.seen = await refused(arguments(data, llm.base_url))
        untouched = path.read_bytes() == spoilt
        shutil.copy(backup, path)
        row.healed = code == 1 and "backup" in row.seen and await _starts(data, llm.base_url, server)
        row.kept = untouched and kept(data, server.said)
        row.figures = {"exit_code": code, "left_alone": untouched}
    return row


async def spoilt_pages(folder: Path, form: Form) -> Row:
    """Pages in the middle of the file are spoilt, which no start notices: what is read of them says so."""
    row, data, user = Row(), folder / "data", f"{STORM}-pages"
    path, backup = data / "ledger.db", folder / "backup.db"
    async with models() as (llm, _):
        async with serving(data, llm.base_url) as server:
            for number in range(12):
                await server.chat(user, f"I moved to town {number}. " + "It is far. " * 400)
            await server.settled(user)
            await server.stop()
        shutil.copy(path, backup)
        with path.open("r+b") as file:  # what lies there is turns and their tokens
            file.seek(path.stat().st_size // 2)
            file.write(os.urandom(path.stat().st_size // 3))
        code, row.seen = await refused([*arguments(data, llm.base_url)])
        shutil.copy(backup, path)
        row.healed = await _starts(data, llm.base_url, server)
        row.kept = kept(data, server.said)
        row.figures = {"exit_code": code}
    return row


async def _starts(data: Path, llm: str, before: Server) -> bool:
    """Whether a new server starts, answers, and still has what was said."""
    async with serving(data, llm) as server:
        last = await server.chat(STORM, "I am back.")
        settled = await server.settled(STORM)
        await server.stop()
    return last.done and settled and kept(data, {**before.said})


# ── the clock ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def clock_back(folder: Path, form: Form) -> Row:
    """The wall clock jumps back a day while replies are written and work waits."""
    row, user, data, clock = Row(), f"{STORM}-clock", folder / "data", folder / "clock"
    clock.write_text("0")
    wrapped = {"FAULTS_CLOCK": str(clock)}
    async with models() as (llm, _), serving(data, llm.base_url, wrapped=wrapped, debounce=1) as server:
        before = await others(server, form.samples)
        await server.chat(user, "I moved to Oslo.")
        llm.always("complete", first_delay=1.0)
        await server.chat(user, "My sister Ida lives there.", "other")
        clock.write_text(str(-DAY))
        llm.script.reset()
        began = time.monotonic()
        reply = await server.chat(user, "What is my sister called?")
        compared(row, before, await others(server, form.samples))
        row.healed = reply.done and await server.settled(user)
        row.healed_seconds = round(time.monotonic() - began, 1)
        texts = [turn["text"] for turn in (await server.get("turns", user_id=user, chat_id="c"))["turns"]]
        ordered = texts[0] == "I moved to Oslo." and texts[2] == "What is my sister called?"
        attempts = {job["attempt"] for job in await server.jobs(user)}
        row.kept = kept(data, server.said) and ordered and attempts <= {1}
        row.seen = f"a reply: {reply.text[:60]!r}"
        row.figures = {"in_order": ordered, "attempts": sorted(attempts)}
    return row


@contextmanager
def disk(place: Path) -> Iterator[Path | None]:
    """A small disk of its own, where one can be mounted."""
    place.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if not made or made.returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


FAULTS: dict[str, Callable[[Path, Form], Awaitable[Row]]] = {
    "disk_full": full,
    "disk_full_by_pages": _full_by_pages,
    "read_only": read_only,
    "truncated": partial(damaged, _cut_in_half),
    "emptied": partial(damaged, _emptied),
    "overwritten": partial(damaged, _overwritten),
    "spoilt_pages": spoilt_pages,
    "clock_back_a_day": clock_back,
}
BESIDE: dict[str, Callable[[Server, FakeOpenAI, Form], Awaitable[Row]]] = {"locked": locked}
