"""The steps on a real ledger: what one writes, the next one finds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from afterword import backfill, consolidate, project, reconsolidate, remember
from afterword.lanes import backfill_job, reconsolidate_job
from afterword.ledger import SqlLedger
from afterword.ports import Desk, Message, Policy
from afterword.records import Filters, Json, NewReply, NewTurn, Receipt, ReceiptItem, Ref, Scope
from afterword.testing import FrozenClock, HashingEmbedder, InlineOffload, ScriptedLLM

pytestmark = pytest.mark.anyio

ANN = Scope("t", "ann")
STEPS = {
    step.kind: step for step in (remember.STEP, reconsolidate.STEP, consolidate.STEP, backfill.STEP, *project.STEPS)
}
LIVES = "The user's sister Lena lives in Bonn and plays the cello."
MOVED = "The user's sister Lena lived in Bonn, moved to Mainz by 3 May 2026, and plays the cello."


def answers(_: Sequence[Message], schema: Json) -> str:
    """Each question is told by the list that its answer holds."""
    (name,) = schema["properties"]
    items: dict[str, dict[str, object]] = {
        "entries": {"turns": [1], "kind": "personal_fact", "record": LIVES},
        "verdicts": {"memory": 1, "verdict": "revise", "text": MOVED, "why": "she moved"},
        "changes": {"action": "add", "topic": 1, "text": "The user's sister Lena plays the cello."},
    }
    return json.dumps({name: [items[name]]})


@dataclass
class House:
    ledger: SqlLedger
    clock: FrozenClock
    embedder: HashingEmbedder
    llm: ScriptedLLM | None = None

    async def work(self) -> list[str]:
        """Do what is due, as the worker would; the kinds of the jobs that were done."""
        desk = Desk(self.ledger, self.llm, self.embedder, InlineOffload(), self.clock, Policy())
        done: list[str] = []
        await self.clock.advance(60)
        while claimed := await self.ledger.claim("w", list(STEPS), 8, 60.0):
            for job in claimed:
                step = STEPS[job.kind]
                if step.window is not None:
                    job = await self.ledger.fix_window(job, await step.window(job, desk))
                await self.ledger.apply(job, await step.decide(job, desk))
                done.append(job.kind)
            await self.clock.advance(60)
        return done

    async def say(self, text: str) -> str:
        turn = NewTurn("c", "user", text)
        (stored,) = await self.ledger.accept(ANN, [turn], remember.remember_jobs(ANN, [turn], debounce=True))
        return stored.id

    async def answer(self, turn_id: str, text: str, used: Ref) -> None:
        reply = NewReply("c", turn_id, text, self.clock.now(), 0)
        receipt = Receipt((ReceiptItem(used, "episodic", 1.0, {}),))
        stored = await self.ledger.answer(ANN, 0, reply, receipt)
        await self.ledger.put(ANN, [reconsolidate_job(ANN, "c", stored.id)])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = FrozenClock()
    ledger = SqlLedger(f"sqlite:///{tmp_path}/ledger.db", clock=clock, offload=InlineOffload())
    await ledger.open()
    yield House(ledger, clock, HashingEmbedder(), ScriptedLLM(answers=answers))
    await ledger.aclose()


async def test_a_turn_becomes_an_episode_a_revision_and_a_fact(house: House) -> None:
    await house.say("My sister Lena lives in Bonn, she plays the cello")
    assert await house.work() == ["remember", "embed"]
    (episode,) = await house.ledger.memories(ANN, Filters())
    assert episode.text == LIVES
    assert (await house.ledger.state(ANN)).model == house.embedder.model
    assert await house.ledger.vector_counts(ANN, house.embedder.model) == (2, 2)

    turn = await house.say("Lena moved from Bonn to Mainz, by the way")
    await house.answer(turn, "Mainz is lovely.", episode.ref)
    assert "reconsolidate" in await house.work()
    revised = await house.ledger.memory(ANN, episode.id)
    assert (revised.version, revised.text, revised.why) == (2, MOVED, "she moved")
    assert turn in revised.sources
    assert revised.strength > 1.0

    run, _ = await house.ledger.start_run(ANN, "consolidate", 0, consolidate.first_job(ANN))
    await house.work()
    (fact,) = await house.ledger.memories(ANN, Filters(kinds=("semantic",)))
    assert fact.text == "The user's sister Lena plays the cello."
    (ended,) = await house.ledger.runs(ANN, "consolidate")
    assert (ended.id, ended.state) == (run.id, "done")
    assert await house.ledger.episodes_after(ANN, await house.ledger.consolidated_to(ANN), 10) == []


async def test_what_rules_wrote_gives_way_to_the_llm(house: House) -> None:
    llm, house.llm = house.llm, None
    await house.say("My sister Lena lives in Bonn, she plays the cello")
    await house.work()
    (by_rules,) = await house.ledger.memories(ANN, Filters())
    assert by_rules.author == "rules"

    house.llm = llm
    await house.ledger.start_run(ANN, "backfill", 0, backfill_job(ANN))
    await house.work()
    (by_llm,) = await house.ledger.memories(ANN, Filters())
    assert (by_llm.author, by_llm.text) == ("llm", LIVES)
    assert await house.ledger.rule_decisions(ANN, 1) == []
    (run,) = await house.ledger.runs(ANN, "backfill")
    assert (run.state, run.done) == ("done", 1)
