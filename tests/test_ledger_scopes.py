"""Nobody sees or touches another's: every method that takes a scope is walked, with hostile names."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from afterword.errors import AfterwordError, EpochChanged, NotFound, VersionConflict
from afterword.glance import EVERYTHING, Glance, Panel, Sought, Talk, Work
from afterword.lanes import consolidate_job, embed_job, remember_job
from afterword.plan import Erase, Plan, Retire, Revise
from afterword.ports import JobFilter, Ledger
from afterword.records import Filters, NewReply, NewTurn, Receipt, Ref, Scope, ScopeState
from afterword.testing.clock import START
from tests.ledger_house import BACKENDS, MODEL, House, a_house, vectors

pytestmark = pytest.mark.anyio

HOSTILE = [
    ('he"llo', "o'brien"),
    ("a", 'b","c'),
    ('a","b', "c"),
    ("' OR 1=1 --", "%_\\"),
    ("🏠", "用户" * 60),
    ("A", "b"),
    ("a", "B"),
]
OWNER = Scope("a", "b")


@pytest.fixture(params=BACKENDS)
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    async with a_house(request.param, tmp_path) as house:
        house.scope = OWNER
        yield house


class Owned:
    """A little of everything that belongs to `OWNER`."""

    def __init__(self, turn: str, reply: str, memory: Ref, job: int) -> None:
        self.turn = turn
        self.reply = reply
        self.memory = memory
        self.job = job


async def furnished(house: House) -> Owned:
    (turn,) = await house.ledger.accept(OWNER, [NewTurn("c", "user", "mine")], [remember_job(OWNER, "c")])
    reply = await house.reply(turn)
    await house.clock.advance(30)
    (ref,) = await house.decide(house.episode("mine", [turn.id]), by="rules")
    await house.run(vectors(ref))
    memory = await house.ledger.memory(OWNER, ref.record)
    await house.ledger.start_run(OWNER, "consolidate", 1, consolidate_job(OWNER))
    assert memory.job_id is not None
    await house.ledger.accept(OWNER, [NewTurn("d", "user", "mine too")])  # and not decided yet
    return Owned(turn.id, reply.id, ref, memory.job_id)


SOUGHT = Sought(EVERYTHING, "c", 5, "episodic", 5, START, backlog=False)
EMPTY = Glance(Talk([], []), Panel([], {"episodic": 0, "semantic": 0}), Work([], {}, 0), [])
NOTHING: list[Any] = [None, [], {}, (0, 0), 0, (ScopeState(0, 0, None), []), ScopeState(0, 0, None), EMPTY]
Look = Callable[[Ledger, Scope, Owned], Awaitable[object]]
LOOKS: dict[str, Look] = {
    "state": lambda ledger, scope, own: ledger.state(scope),
    "chats": lambda ledger, scope, own: ledger.chats(scope),
    "turns": lambda ledger, scope, own: ledger.turns(scope, "c"),
    "turns_at": lambda ledger, scope, own: ledger.turns_at(scope, [("c", 0), ("c", 1)]),
    "last_turns": lambda ledger, scope, own: ledger.last_turns(scope, "c", 5),
    "turn": lambda ledger, scope, own: ledger.turn(scope, own.turn),
    "opening": lambda ledger, scope, own: ledger.opening(scope, own.turn, 5),
    "receipt": lambda ledger, scope, own: ledger.receipt(scope, own.reply),
    "receipts": lambda ledger, scope, own: ledger.receipts(scope, [own.reply]),
    "cursor": lambda ledger, scope, own: ledger.cursor(scope, "c"),
    "read": lambda ledger, scope, own: ledger.read(scope, [own.memory, Ref(own.turn, 1)]),
    "memory": lambda ledger, scope, own: ledger.memory(scope, own.memory.record),
    "memories": lambda ledger, scope, own: ledger.memories(scope, Filters(), retired=True),
    "history": lambda ledger, scope, own: ledger.history(scope, own.memory.record),
    "memories_of": lambda ledger, scope, own: ledger.memories_of(scope, [own.turn]),
    "episodes_after": lambda ledger, scope, own: ledger.episodes_after(scope, 0, 10),
    "changes": lambda ledger, scope, own: ledger.changes(scope, 0),
    "entries": lambda ledger, scope, own: ledger.entries(scope),
    "unembedded": lambda ledger, scope, own: ledger.unembedded(scope, "m2", 10),
    "vector_counts": lambda ledger, scope, own: ledger.vector_counts(scope, MODEL),
    "rule_decisions": lambda ledger, scope, own: ledger.rule_decisions(scope, 10),
    "decisions": lambda ledger, scope, own: ledger.decisions(scope, own.job),
    "jobs": lambda ledger, scope, own: ledger.jobs(scope, JobFilter()),
    "job_counts": lambda ledger, scope, own: ledger.job_counts(scope),
    "runs": lambda ledger, scope, own: ledger.runs(scope),
    "consolidated_to": lambda ledger, scope, own: ledger.consolidated_to(scope),
    "glance": lambda ledger, scope, own: ledger.glance(scope, SOUGHT),
    "waiting": lambda ledger, scope, own: ledger.waiting(scope),
}
WRITES: dict[str, Look] = {
    "accept": lambda ledger, scope, own: ledger.accept(scope, [NewTurn("c", "user", "theirs", turn_id=own.turn)]),
    "begin": lambda ledger, scope, own: ledger.begin(scope, NewTurn("c", "user", "theirs", turn_id=own.turn), (), 5),
    "answer": lambda ledger, scope, own: ledger.answer(
        scope, 0, NewReply("c", own.turn, "theirs", START, 0), Receipt()
    ),
    "edit": lambda ledger, scope, own: ledger.edit(scope, Plan((Erase(own.memory.record),))),
    "reset": lambda ledger, scope, own: ledger.reset(scope),
    "delete_chat": lambda ledger, scope, own: ledger.delete_chat(scope, "c"),
    "start_run": lambda ledger, scope, own: ledger.start_run(scope, "consolidate", 1, consolidate_job(scope)),
    "put": lambda ledger, scope, own: ledger.put(scope, [embed_job(scope), remember_job(scope, "c")]),
}
APART = {"watch", "scopes"}  # a watch has tests of its own; `scopes` pages over all of them


def test_every_method_that_takes_a_scope_is_walked() -> None:
    taking = {
        name
        for name, method in inspect.getmembers(Ledger, inspect.isfunction)
        if any("Scope" in str(one.annotation) for one in inspect.signature(method).parameters.values())
    }
    assert taking == {*LOOKS, *WRITES} | APART


async def everything(house: House, own: Owned) -> dict[str, str]:
    return {name: repr(await look(house.ledger, OWNER, own)) for name, look in LOOKS.items()}


async def test_a_user_sees_all_of_their_own_and_others_see_nothing(house: House) -> None:
    own = await furnished(house)
    for name, look in LOOKS.items():
        if name != "consolidated_to":
            assert await look(house.ledger, OWNER, own) not in NOTHING, name
        for tenant, user in HOSTILE:
            try:
                seen = await look(house.ledger, Scope(tenant, user), own)
            except NotFound:
                continue
            assert seen in NOTHING, (name, tenant, user)


async def test_nobody_changes_what_is_not_theirs(house: House) -> None:
    own = await furnished(house)
    before = await everything(house, own)
    for tenant, user in HOSTILE:
        other = Scope(tenant, user)
        for write in WRITES.values():
            try:
                await write(house.ledger, other, own)
            except (NotFound, EpochChanged):
                continue
        for change in (Revise(own.memory, "theirs", "person"), Retire(own.memory, "theirs")):
            with pytest.raises(NotFound):
                await house.ledger.edit(other, Plan((change,)))
            with pytest.raises(VersionConflict):
                await house.run(change, scope=other)
    assert await everything(house, own) == before


async def test_each_hostile_name_has_a_whole_memory_of_its_own(house: House) -> None:
    for tenant, user in HOSTILE:
        scope = Scope(tenant, user)
        await house.ledger.accept(scope, [NewTurn("c", "user", f"I am {user}")], [remember_job(scope, "c", 0.0)])
    claimed = await house.claim(count=50)
    assert {(job.scope.tenant, job.scope.user) for job in claimed} == set(HOSTILE)
    for job in claimed:
        (turn,) = await house.ledger.turns(job.scope, "c")
        assert turn.text == f"I am {job.scope.user}"
        await house.ledger.apply(job, Plan((house.episode(turn.text, [turn.id]),)))
        assert [memory.text for memory in await house.ledger.memories(job.scope, Filters())] == [turn.text]


async def test_a_job_of_one_user_can_not_write_for_another(house: House) -> None:
    await house.ledger.put(OWNER, [embed_job(OWNER)])
    job = await house.claim_one("embed")
    stolen = replace(job, scope=Scope("a", "B"))
    with pytest.raises(AfterwordError):
        await house.ledger.apply(stolen, Plan((house.episode("theirs"),)))
    assert await house.ledger.memories(Scope("a", "B"), Filters()) == []
