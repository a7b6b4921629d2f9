"""`memories` and `reset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast, get_args

import typer

from afterword.commands.common import Flags, one_line, say, say_json, settings_of, when, with_memory
from afterword.errors import InvalidInput
from afterword.records import Filters, MemoryKind, MemoryRecord

if TYPE_CHECKING:
    from afterword.memory import AsyncMemory
    from afterword.settings import Settings


def list_memories(flags: Flags, *, kind: str | None, chat_id: str | None, limit: int, as_json: bool) -> None:
    if kind is not None and kind not in get_args(MemoryKind):
        raise InvalidInput(f"kind is {kind!r}: give episodic or semantic")
    filters = Filters(kinds=(cast(MemoryKind, kind),) if kind else (), chat_id=chat_id)

    async def read(memory: AsyncMemory, settings: Settings) -> list[MemoryRecord]:
        return await memory.get_all(settings.user, filters, limit)

    found = with_memory(flags, read)
    if as_json:
        say_json([memory_json(record) for record in found])
    elif not found:
        say("Nothing is remembered yet.")
    else:
        for record in found:
            date = when(record.said_at, record.utc_offset)
            say(f"{date}  {record.kind:<8}  {one_line(record.text)}  [{record.id}]")


def show_memory(flags: Flags, memory_id: str, *, as_json: bool, only_history: bool = False) -> None:
    async def read(memory: AsyncMemory, settings: Settings) -> list[MemoryRecord]:
        return await memory.history(memory_id, settings.user)

    versions = with_memory(flags, read)
    if as_json:
        say_json([memory_json(record) for record in versions])
        return
    newest = versions[-1]
    if not only_history:
        say(newest.text)
        say(
            f"{newest.kind}, {when(newest.said_at, newest.utc_offset)}, strength {newest.strength:.2f}, by {newest.author}"
        )
        if newest.retired:
            say(f"retired: {newest.retired}")
        if newest.sources:
            say(f"rests on: {', '.join(newest.sources)}")
    for record in versions:
        why = f"  ({record.why})" if record.why else ""
        say(
            f"  version {record.version}, {when(record.written_at, record.utc_offset)}, {record.author}: {record.text}{why}"
        )


def edit_memory(flags: Flags, memory_id: str, text: str) -> None:
    async def edit(memory: AsyncMemory, settings: Settings) -> MemoryRecord:
        return await memory.update(memory_id, text, settings.user)

    say(f"Now version {with_memory(flags, edit).version}.")


def delete_memory(flags: Flags, memory_id: str) -> None:
    async def delete(memory: AsyncMemory, settings: Settings) -> None:
        await memory.delete(memory_id, settings.user)

    with_memory(flags, delete)
    say("Erased.")


def reset(flags: Flags, *, yes: bool) -> None:
    settings = settings_of(flags)
    question = f"Erase every chat and memory of {settings.user!r} in {settings.data_dir}, for good?"
    if not yes and not typer.confirm(question):
        say("Nothing was erased.")
        raise typer.Exit(1)

    async def erase(memory: AsyncMemory, settings: Settings) -> None:
        await memory.reset(settings.user)

    with_memory(flags, erase)
    say(f"Everything of {settings.user!r} is erased.")


def memory_json(record: MemoryRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "version": record.version,
        "kind": record.kind,
        "text": record.text,
        "said_at": record.said_at.isoformat(),
        "written_at": record.written_at.isoformat(),
        "author": record.author,
        "sources": list(record.sources),
        "chat_id": record.chat_id,
        "valid_from": record.valid_from.isoformat() if record.valid_from else None,
        "valid_to": record.valid_to.isoformat() if record.valid_to else None,
        "strength": record.strength,
        "retired": record.retired,
        "why": record.why,
    }
