"""Reconsolidation: a recalled episode is strengthened by use, and revised where the turn that used it says more; a turn
that takes something back revises what it speaks of, recalled or not.

Which episodes a reply used is judged by the words it shares with them, so that a turn that used none costs no call.
The LLM is asked at most once a turn, and only when the user told something rather than asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, cast

from afterword.asking import ask
from afterword.decisions import Verdict, grounded, invented_details, lost_details, names_in, read_verdicts
from afterword.errors import NotFound
from afterword.lanes import correction_job, embed_job
from afterword.language.dates import absolute, annotated, day
from afterword.language.slips import slip, tidied
from afterword.language.texts import content_words, cut, estimate_tokens, language_of, own_words, share
from afterword.plan import Change, Plan, Reconsolidated, Revise, Strengthen
from afterword.ports import Step
from afterword.prompts import reconsolidate_question, said_by
from afterword.ranking import strength_at
from afterword.records import Filters, MemoryRecord, local_time
from afterword.rules import corrects, may_change, may_correct

if TYPE_CHECKING:
    from afterword.ports import LLM, Desk
    from afterword.records import Job, Json, Scope, Turn

STRONGEST = 5.0
USED = 0.2  # of an episode's words in what was said
COMPARED = 200  # newest episodes that a correction is held against
FEW, OFTEN = 3, 0.05  # memories that share a word, or what part of them, above which it is a common one
ASKED = 3  # episodes a call: those that share most with what was said
KNOWN = 0.75  # of a new version's words that stand in the old one or in what was said
WHY = 40  # tokens of what was said that are kept as the reason of a revision
LONGEST = 300  # tokens of a memory: what goes on beyond is no memory in a sentence or two


@dataclass(frozen=True, slots=True)
class Said:
    """The evidence: what a person said, when (on their own clock), and the turn it stands in, if it is one."""

    text: str
    who: str
    local: datetime
    turn_id: str | None

    @property
    def dated(self) -> str:
        """On one line, its relative times worked out."""
        return " ".join(annotated(self.text, self.local).split())


@dataclass(frozen=True, slots=True)
class _Revised:
    changes: tuple[Revise, ...]
    decision: Json


def strengthened(old: MemoryRecord, now: datetime, half_life_days: float) -> float:
    """The strength after one more use: what is left of it and one more, the nearer to 5 the less."""
    left = strength_at(old, now, half_life_days)
    return min(STRONGEST, left + 1.0 - left / STRONGEST)


def used(episode: str, question: str, reply: str) -> bool:
    """Whether the reply, or the user's own words, drew on this memory: a fair share of its words is in them.

    A single word counts only if the reply has it and the question has not: that is the answer itself.
    """
    words, asked, answered = content_words(episode), content_words(question), content_words(reply)
    together = words & (asked | answered)
    if words & (answered - asked) and share(words, asked | answered) >= USED / 2:
        return True
    return len(together) >= 2 and share(words, asked | answered) >= USED


async def decide(job: Job, desk: Desk) -> Plan:
    """Raises `BadAnswer`, `LLMUnavailable`."""
    if "reply_id" in job.payload:
        return await _after_reply(job, desk)
    if "turn_ids" in job.payload:
        return await _after_correction(job, desk)
    return await _after_query(job, desk)


STEP = Step("reconsolidate", decide)


async def _after_reply(job: Job, desk: Desk) -> Plan:
    reply_id: str = job.payload["reply_id"]
    ended = Reconsolidated(reply_id)
    try:
        reply = await desk.reads.turn(job.scope, reply_id)
        asked = await desk.reads.turn(job.scope, reply.reply_to) if reply.reply_to else None
    except NotFound:
        return Plan((ended,), {"note": "the turns are gone"})
    receipt = await desk.reads.receipt(job.scope, reply_id)
    if asked is None or receipt is None:
        return Plan((ended,), {"note": "there is no receipt"})
    records = [item.ref.record for item in receipt.items if item.kind != "turn"]
    current = await _current(job.scope, records, desk)
    drawn_on = [
        memory
        for memory in current
        if used(memory.text, asked.text, reply.text)
        or may_correct(asked.text, memory.text, content_words(asked.speaker or ""))
    ]
    return await _plan(job, desk, _said_in(asked), drawn_on, (ended,))


async def _after_correction(job: Job, desk: Desk) -> Plan:
    """A turn that takes something back also revises what no reply was given: what stood in the chat's history, or was
    still to be decided, when it was said. What its reply was given is left to the job of that reply."""
    first, *others = cast("list[str]", job.payload["turn_ids"])
    try:
        turn = await desk.reads.turn(job.scope, first)
    except NotFound:
        plan = Plan((), {"note": "the turn is gone"})
    else:
        plan = await _plan(job, desk, _said_in(turn), await _corrected_by(turn, job.scope, desk), ())
    following = (correction_job(job.scope, job.payload["chat_id"], others),) if others else ()
    return replace(plan, jobs=(*plan.jobs, *following))


async def _corrected_by(turn: Turn, scope: Scope, desk: Desk) -> list[MemoryRecord]:
    answers = await desk.reads.turns(scope, turn.chat_id, first=turn.position + 1, limit=1)
    receipts = await desk.reads.receipts(scope, [answer.id for answer in answers if answer.reply_to == turn.id])
    given = {item.ref.record for receipt in receipts.values() for item in receipt.items}
    newest = await desk.reads.memories(scope, Filters(kinds=("episodic",)), limit=COMPARED)
    own = [memory for memory in newest if memory.id not in given and _may_be_taken_back(memory, turn)]
    apart = content_words(turn.speaker or "") | _said_often(newest)
    return [memory for memory in own if may_correct(turn.text, memory.text, apart)]


def _said_often(memories: Sequence[MemoryRecord]) -> frozenset[str]:
    """Words that many of these memories have, names aside: one of them in common is chance."""
    found = Counter(word for memory in memories for word in content_words(own_words(memory.text)))
    names = content_words(" ".join(name for memory in memories for name in names_in(memory.text)))
    most = max(FEW, OFTEN * len(memories))
    return frozenset(word for word, number in found.items() if number > most and word not in names)


def _said_in(turn: Turn) -> Said:
    return Said(turn.text, said_by(turn, language_of(turn.text)), local_time(turn.said_at, turn.utc_offset), turn.id)


def _may_be_taken_back(memory: MemoryRecord, turn: Turn) -> bool:
    """What was said before; in a transcript of several people, by the same: nobody takes back what another one said."""
    same = turn.speaker is None or turn.speaker.lower() in memory.text.lower()
    return same and memory.said_at <= turn.said_at


async def _after_query(job: Job, desk: Desk) -> Plan:
    payload = job.payload
    records = [str(record) for record, _ in cast("list[list[object]]", payload["refs"])]
    current = await _current(job.scope, records, desk)
    query: str = payload["query"]
    local = local_time(datetime.fromisoformat(payload["said_at"]), int(payload["utc_offset"]))
    who = "用户" if language_of(query) == "zh" else "the user"
    drawn_on = [memory for memory in current if used(memory.text, query, "")]
    return await _plan(job, desk, Said(query, who, local, None), drawn_on, ())


async def _current(scope: Scope, records: Sequence[str], desk: Desk) -> list[MemoryRecord]:
    """The newest version of each that is still current, even where the receipt names an older one."""
    found: list[MemoryRecord] = []
    for record in dict.fromkeys(records):
        try:
            memory = await desk.reads.memory(scope, record)
        except NotFound:
            continue
        if memory.retired is None:
            found.append(memory)
    return found


async def _plan(
    job: Job, desk: Desk, said: Said, drawn_on: Sequence[MemoryRecord], ended: tuple[Reconsolidated, ...]
) -> Plan:
    now = desk.clock.now()
    half_life = desk.policy.half_life_days
    changes: list[Change] = [Strengthen(m.id, strengthened(m, now, half_life), now) for m in drawn_on]
    decision: dict[str, object] = {"used": [list(memory.ref) for memory in drawn_on], "calls": 0}
    open_to_change = [
        memory
        for memory in drawn_on
        if memory.kind == "episodic"
        and memory.author != "person"
        and said.turn_id not in memory.sources
        and may_change(said.text, memory.text)
    ]
    told = content_words(said.text)
    open_to_change.sort(key=lambda memory: len(content_words(memory.text) & told), reverse=True)
    llm = desk.llm
    if llm is not None and not llm.quotes and open_to_change:
        revised = await _revised(llm, open_to_change[:ASKED], said)
        changes += revised.changes
        decision |= revised.decision
    embeds = any(isinstance(change, Revise) for change in changes) and desk.embedder is not None
    return Plan((*changes, *ended), decision, (embed_job(job.scope),) if embeds else ())


async def _revised(llm: LLM, episodes: Sequence[MemoryRecord], said: Said) -> _Revised:
    question = reconsolidate_question(episodes, said.text, said.who, said.local)
    answered = await ask(llm, question, lambda text: read_verdicts(text, range(1, len(episodes) + 1)))
    changes: list[Revise] = []
    notes: list[Json] = []
    for verdict in answered.value:
        episode = episodes[verdict.number - 1]
        text, note = _new_text(verdict, episode, said)
        if text:
            sources = (said.turn_id,) if said.turn_id else ()
            changes.append(Revise(episode.ref, text, "llm", sources, why=verdict.why or cut(said.dated, WHY)))
        notes.append({"memory": list(episode.ref), "verdict": verdict.verdict, "text": verdict.text, "note": note})
    return _Revised(tuple(changes), {"model": answered.model, "calls": answered.calls, "verdicts": notes})


def _new_text(verdict: Verdict, episode: MemoryRecord, said: Said) -> tuple[str, str]:
    """The text of the next version, "" to leave it, and why.

    Where the LLM found something to revise but wrote it badly, what was said is noted beside the old text instead.
    """
    if verdict.verdict == "keep":
        return "", "kept"
    if verdict.verdict == "contradicted":
        return _noted(episode, said, "what was said is noted beside it")
    text = tidied(absolute(verdict.text, said.local))
    if not text or text == episode.text:
        return (
            _noted(episode, said, "noted beside it: nothing new") if corrects(said.text) else ("", "left: nothing new")
        )
    wrong = _objection(text, episode, said)
    return _noted(episode, said, f"noted beside it: {wrong}") if wrong else (text, "revised")


def _objection(text: str, episode: MemoryRecord, said: Said) -> str:
    """Why this is no new version of the episode, "" when it is one."""
    wrong = slip(text, f"{said.text}\n{episode.text}", "", [])
    if wrong:
        return wrong
    evidence = f"{said.who} {day(said.local, language_of(said.text))} {annotated(said.text, said.local)}"
    lost = lost_details(episode.text, text, evidence)
    if lost:
        return f"it would lose {', '.join(lost)}"
    written = day(local_time(episode.said_at, episode.utc_offset), language_of(episode.text))
    known = f"{episode.text} {written} {evidence}"
    invented = invented_details(text, known)
    if invented:
        return f"nobody said {', '.join(invented)}"
    return "" if grounded(text, known, least=KNOWN) else "it tells something else"


def _noted(episode: MemoryRecord, said: Said, note: str) -> tuple[str, str]:
    """What was remembered stays, as it was said then; what was said now stands beside it, in the person's words."""
    words = cut(said.dated, 100)
    correction = corrects(said.text)
    if language_of(episode.text) == "zh":
        verb = "更正" if correction else "补充"
        text = f"{episode.text}（{day(said.local, 'zh', weekday=False)}{said.who}{verb}：{words}）"
    else:
        verb = "Corrected" if correction else "Added"
        text = f"{episode.text} ({verb} by {said.who} on {day(said.local, weekday=False)}: {words})"
    return ("", "left: it would get too long") if estimate_tokens(text) > LONGEST else (text, note)
