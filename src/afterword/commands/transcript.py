"""`import`: a transcript as JSON Lines, one turn a line.

A line without `turn_id` gets one made from what it says, so that importing the same file again, or a longer copy of it,
adds only what is new.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from afterword.commands.common import Flags, one_line, say, settings_of, warn, with_memory
from afterword.commands.talk import aware
from afterword.commands.work import Bar
from afterword.errors import InvalidInput, QueueFull
from afterword.limits import SOONEST
from afterword.records import METADATA_LIMIT, NewTurn

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.settings import Settings
    from afterword.tickets import LedgerTicket

FIELDS = ("chat_id", "role", "speaker", "text", "said_at", "turn_id", "utc_offset", "metadata")
BATCH = 500
BAD_SHOWN = 20
LINE_LIMIT = 1_000_000  # bytes
LINES_LIMIT = 1_000_000
PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7z", "xz"),
)


@dataclass
class Transcript:
    """What a file holds: turns sorted by `said_at` within each chat, and the lines that could not be read."""

    turns: list[NewTurn] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)

    @property
    def chats(self) -> int:
        return len({turn.chat_id for turn in self.turns})


def import_file(flags: Flags, path: Path, *, dry_run: bool, wait: bool) -> None:
    settings = settings_of(flags)
    transcript = read_transcript(path, settings)
    for number, reason in transcript.bad[:BAD_SHOWN]:
        warn(f"line {number}: {reason}")
    if len(transcript.bad) > BAD_SHOWN:
        warn(f"… and {len(transcript.bad) - BAD_SHOWN} more bad lines")
    found = f"{_count(len(transcript.turns), 'turn')} in {_count(transcript.chats, 'chat')}"
    if dry_run:
        say(f"Read {found}, {_count(len(transcript.bad), 'bad line')}. Nothing was kept.")
    elif transcript.turns:
        new = with_memory(flags, lambda memory, chosen: _keep(memory, chosen, transcript.turns, wait), run_worker=wait)
        say(f"Kept {found}: {new} new, {len(transcript.turns) - new} known already.")
        if new and not wait:
            say("What they teach is worked out by a running server or by `afterword worker`.")
    else:
        say(f"There is no turn in {path}.")
    if transcript.bad:
        raise typer.Exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


async def _keep(memory: AsyncMemory, settings: Settings, turns: list[NewTurn], wait: bool) -> int:
    """Store in batches; how many turns were not there before."""
    began = datetime.now(UTC)
    bar = Bar()
    tickets: list[LedgerTicket] = []
    for start in range(0, len(turns), BATCH):
        tickets.append(await _kept(memory, settings, turns[start : start + BATCH], start, wait=wait))
        bar.show(min(start + BATCH, len(turns)), len(turns), "kept")
    for number, ticket in enumerate(tickets, 1):
        if wait:
            await ticket.ids()
            bar.show(number, len(tickets), "batches decided")
    bar.end()
    return sum(turn.stored_at >= began for ticket in tickets for turn in ticket.turns)


async def _kept(
    memory: AsyncMemory, settings: Settings, turns: list[NewTurn], start: int, *, wait: bool
) -> LedgerTicket:
    """Store a batch. At a limit, where this process works on what waits, try again until it fits."""
    while True:
        try:
            return await memory.add_turns(turns, settings.user)
        except QueueFull as error:
            if not wait:
                raise QueueFull(
                    f"{start:,} turns were kept, then: {error}. Import the file again later: known turns add nothing"
                ) from error
        await asyncio.sleep(SOONEST)  # so long an older measure of what waits is believed


def read_transcript(path: Path, settings: Settings) -> Transcript:
    """Read and check a file. Raises `InvalidInput` when it can't be opened."""
    transcript = Transcript()
    seen: dict[str, int] = {}
    _check_kind(path)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(LINE_LIMIT + 1), b""), 1):
                _check_line(path, number, line, transcript)
                if line.strip():
                    _read_line(number, line, seen, settings, transcript)
    except OSError as error:
        raise InvalidInput(f"{path} can't be read: {error.strerror}; name a JSON Lines file") from error
    transcript.turns = list(_in_order(transcript.turns))
    return transcript


def _check_kind(path: Path) -> None:
    """Raises `InvalidInput` for what is no file: a device gives lines without end."""
    if path.exists() and not path.is_file() and not path.is_fifo():
        raise InvalidInput(f"{path} is no file: name a JSON Lines file")


def _check_line(path: Path, number: int, line: bytes, transcript: Transcript) -> None:
    """Raises `InvalidInput` for a file that can't be a transcript, or is too large to be held at once."""
    kind = next((kind for mark, kind in PACKED if number == 1 and line.startswith(mark)), "")
    if kind:
        raise InvalidInput(f"{path} is compressed ({kind}): unpack it first")
    if len(line) > LINE_LIMIT:
        raise InvalidInput(f"line {number} of {path} is over {LINE_LIMIT // 1_000_000} MB: give one turn a line")
    if len(transcript.turns) + len(transcript.bad) >= LINES_LIMIT:
        raise InvalidInput(f"{path} has over {LINES_LIMIT:,} lines: split it, and import one part after the other")


def _read_line(number: int, line: bytes, seen: dict[str, int], settings: Settings, transcript: Transcript) -> None:
    try:
        turn = _turn(_object(line), settings)
    except InvalidInput as error:
        transcript.bad.append((number, str(error)))
        return
    if turn.turn_id is None:
        base = _fingerprint(turn)
        seen[base] = seen.get(base, 0) + 1
        turn = replace(turn, turn_id=f"import-{base}-{seen[base]}")
    transcript.turns.append(turn)


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InvalidInput("not UTF-8 text") from None
    except RecursionError:
        raise InvalidInput("not JSON (nested too deeply)") from None
    except ValueError as error:
        raise InvalidInput(f"not JSON ({error})") from None
    if not isinstance(found, dict):
        raise InvalidInput("not a JSON object")
    unknown = [name for name in found if name not in FIELDS]
    if unknown:
        raise InvalidInput(f"{one_line(unknown[0], 40)!r} is no field: use {', '.join(FIELDS)}")
    return found


def _turn(found: dict[str, Any], settings: Settings) -> NewTurn:
    if "text" not in found:
        raise InvalidInput("text is lacking")
    metadata = found.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise InvalidInput("metadata must be an object")
    size = len(json.dumps(metadata)) if metadata else 0
    if size > METADATA_LIMIT:
        raise InvalidInput(f"metadata has {size:,} characters as JSON: give at most {METADATA_LIMIT:,}")
    said_at = _moment(found.get("said_at"), settings)
    offset = found.get("utc_offset")
    if offset is None and said_at is not None:
        own = said_at.utcoffset()
        offset = int(own.total_seconds() // 60) if own is not None else None
    if offset is not None and (not isinstance(offset, int) or abs(offset) > 1080):
        raise InvalidInput("utc_offset must be minutes east of UTC, -1080 to 1080")
    return NewTurn(
        found.get("chat_id") or "imported",
        found.get("role") or "user",
        found["text"],
        found.get("speaker") or None,
        said_at,
        offset,
        found.get("turn_id"),
        metadata,
    )


def _moment(value: object, settings: Settings) -> datetime | None:
    if value in (None, ""):
        return None
    try:
        return aware(datetime.fromisoformat(str(value)), settings)
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"said_at is {one_line(str(value), 40)!r}: give ISO 8601, e.g. 2026-05-03T09:30+02:00"
        ) from None


def _fingerprint(turn: NewTurn) -> str:
    said_at = turn.said_at.astimezone(UTC).isoformat() if turn.said_at else None
    parts = [turn.chat_id, turn.role, turn.speaker, said_at, turn.text]
    return blake2b(json.dumps(parts, ensure_ascii=True).encode(), digest_size=12).hexdigest()


def _in_order(turns: list[NewTurn]) -> Iterator[NewTurn]:
    """By `said_at` within each chat; a turn without one stays behind the turn before it."""
    last: dict[str, datetime] = {}
    placed: dict[str, list[tuple[datetime, int, NewTurn]]] = {}
    for number, turn in enumerate(turns):
        at = turn.said_at or last.get(turn.chat_id, datetime.min.replace(tzinfo=UTC))
        last[turn.chat_id] = at
        placed.setdefault(turn.chat_id, []).append((at, number, turn))
    for chat in placed.values():
        yield from (turn for _, _, turn in sorted(chat, key=lambda each: each[:2]))
