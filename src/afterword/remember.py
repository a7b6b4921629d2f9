"""The write decider: do a chat's new turns hold something worth an episodic memory, and in which words?

The turns after the chat's cursor are read, a window of them at a time. Recalled memories are never in this prompt, so
they can't be taken for something the user said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from afterword import rules
from afterword.asking import ask
from afterword.decisions import (
    ENTRY_KINDS,
    Entry,
    EntryKind,
    names_in,
    numbers_in,
    read_entries,
)
from afterword.lanes import correction_job, embed_job, remember_job
from afterword.language.dates import absolute
from afterword.language.slips import tidied
from afterword.language.texts import alike, content_words, estimate_tokens, joined, own_words, share
from afterword.plan import Change, Decided, Insert, Plan
from afterword.ports import Step
from afterword.prompts import remember_question
from afterword.records import Filters, local_time
from afterword.talk import CONTEXT_TURNS, PASSED_OVER, Talk, objection

if TYPE_CHECKING:
    from afterword.ports import LLM, Desk, Policy
    from afterword.prompts import Question
    from afterword.records import Author, Job, Json, NewJob, NewTurn, Scope, Turn

COMPARED = 200  # newest memories that a new one is compared with
SAME = 0.9
ENTRIES = 6  # that one call is asked for
CONTAINED = 0.8
KINDS_BETWEEN_PEOPLE: tuple[EntryKind, ...] = (
    "personal_fact", "preference_or_instruction", "plan_or_event", "small_talk"
)  # fmt: skip
DEBOUNCE = 2.0  # seconds after a chat's last turn
DEBOUNCE_MOST = 20.0  # seconds after the first that waits


def remember_jobs(
    scope: Scope,
    turns: Sequence[NewTurn],
    *,
    debounce: bool,
    delay: float = DEBOUNCE,
    max_wait: float = DEBOUNCE_MOST,
) -> list[NewJob]:
    """One job a chat that has a user's turn among these. Without `debounce` it may begin at once."""
    chats = dict.fromkeys(turn.chat_id for turn in turns if turn.role == "user")
    if not debounce:
        delay, max_wait = 0.0, 0.0
    return [remember_job(scope, chat_id, delay, max_wait) for chat_id in chats]


@dataclass(frozen=True, slots=True)
class Span:
    """Turns `first` to `last` of a chat; `redo_of` names the rules' decision on them that is made again."""

    chat_id: str
    first: int
    last: int
    redo_of: int | None = None


async def window(job: Job, desk: Desk) -> Json:
    """The turns after the cursor, as many as `policy` lets into one call and as an LLM can keep apart, at least one."""
    chat_id: str = job.payload["chat_id"]
    first = await desk.reads.cursor(job.scope, chat_id)
    turns = await desk.reads.turns(job.scope, chat_id, first=first, limit=desk.policy.window_turns)
    wanted = Talk((), tuple(turns)).wanted if _asked(desk.llm) else {}
    last, room, entries = first - 1, desk.policy.window_tokens, ENTRIES
    for number, turn in enumerate(turns, 1):
        room -= estimate_tokens(turn.text)
        entries -= number in wanted
        if min(room, entries) < 0 and number > 1:
            break
        last = turn.position
    return {"chat_id": chat_id, "first": first, "last": last}


def _asked(llm: LLM | None) -> LLM | None:
    """The LLM, if it is one that decides."""
    return None if llm is None or llm.quotes else llm


async def decide(job: Job, desk: Desk) -> Plan:
    """Raises `BadAnswer`, `LLMUnavailable`."""
    fixed = job.window or await window(job, desk)
    span = Span(fixed["chat_id"], fixed["first"], fixed["last"])
    if span.last < span.first:
        return Plan(decision={"note": "no new turns"})
    talk = await _talk(job.scope, span, desk)
    changes, decision = await _decide(job.scope, span, talk, desk)
    embedding = (embed_job(job.scope),) if desk.embedder is not None else ()
    corrections = _corrections(job.scope, talk) if _asked(desk.llm) else ()
    return Plan(changes, decision, (*embedding, *corrections))  # the ledger puts the job for what was said since


def _corrections(scope: Scope, talk: Talk) -> tuple[NewJob, ...]:
    """What a turn takes back may stand in episodes that no reply was given: they are revised behind it."""
    turns = [one for one in talk.wanted.values() if rules.corrects(talk.own(one)) and not rules.is_question(one.text)]
    return (correction_job(scope, turns[0].chat_id, [turn.id for turn in turns]),) if turns else ()


STEP = Step("remember", decide, window, timeout=300.0)


async def decide_span(scope: Scope, span: Span, desk: Desk) -> tuple[tuple[Change, ...], Json]:
    """As `_decide`, for a span whose turns are still to be read."""
    return await _decide(scope, span, await _talk(scope, span, desk), desk)


async def _decide(scope: Scope, span: Span, talk: Talk, desk: Desk) -> tuple[tuple[Change, ...], Json]:
    """What these turns become, by the LLM or by rules, and the decision that moves the cursor past them."""
    llm = _asked(desk.llm)
    found: list[Insert] = []
    if not talk.wanted:
        # The same with and without an LLM, so there is nothing for one to read again later.
        by: Author = "llm"
        decision: Json = {"by": "llm", "calls": 0, "note": "questions and small talk only"}
    elif llm is None:
        by, decision = "rules", {"by": "rules", "calls": 0}
        found = [insert for turn in talk.new for insert in _by_rules(turn, talk, desk.policy)]
    else:
        by = "llm"
        found, decision = await _by_llm(talk.parts(ENTRIES), llm, desk.policy)
    fresh = await _not_known(scope, span, found, desk) if found else []
    skipped = len(found) - len(fresh)
    kept = {**decision, "written": len(fresh), "known_already": skipped}
    return (*fresh, Decided(span.chat_id, span.first, span.last, by, span.redo_of)), kept


async def _talk(scope: Scope, span: Span, desk: Desk) -> Talk:
    """The turns of a span, and the few before them."""
    new = await desk.reads.turns(scope, span.chat_id, first=span.first, last=span.last)
    earlier = max(0, span.first - CONTEXT_TURNS)
    before = await desk.reads.turns(scope, span.chat_id, first=earlier, last=span.first - 1) if span.first else []
    return Talk(tuple(before), tuple(new))


# ── by rules ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_rules(turn: Turn, talk: Talk, policy: Policy) -> list[Insert]:
    return [_insert(turn, told.text, "rules", told.kind) for told in talk.told(turn, policy)]


def _insert(turn: Turn, text: str, author: Author, kind: str) -> Insert:
    return Insert(
        "episodic",
        text,
        turn.said_at,
        turn.utc_offset,
        (turn.id,),
        author,
        chat_id=turn.chat_id,
        why=kind.replace("_", " "),
        metadata={"kind": kind},
    )


# ── by the LLM ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _by_llm(parts: Sequence[Talk], llm: LLM, policy: Policy) -> tuple[list[Insert], dict[str, object]]:
    inserts: list[Insert] = []
    notes: list[Json] = []
    calls = 0
    for talk in parts:
        wanted = talk.wanted
        question = _question(talk, wanted, policy)
        numbers = range(1, len(talk.new) + 1)
        answered = await ask(llm, question, partial(read_entries, turns=numbers))
        calls += answered.calls
        found: list[Insert] = []
        for entry in answered.value:
            made, note = _judged(entry, wanted.get(entry.turn), talk, policy)
            found += made
            notes.append({"turn": entry.turn, "kind": entry.kind, "record": entry.text, "note": note})
        for number, turn in wanted.items():
            found += _passed_over(turn, found, talk, policy)
            found += _overlooked(number, turn, answered.value, found, talk, policy)
        inserts += found
    return inserts, {"by": "llm", "model": llm.model, "calls": calls, "entries": notes}


def _question(talk: Talk, wanted: Mapping[int, Turn], policy: Policy) -> Question:
    kinds = KINDS_BETWEEN_PEOPLE if talk.between_people else ENTRY_KINDS
    return remember_question(talk.before, talk.new, policy, {n: talk.own(turn) for n, turn in wanted.items()}, kinds)


def _judged(entry: Entry, turn: Turn | None, talk: Talk, policy: Policy) -> tuple[list[Insert], str]:
    """An entry as an insert, if it tells what was said in that turn of a person; else it is told in their own words."""
    if turn is None:
        return [], "rests on no turn of a person"
    # A record under a kind that has none: the kind is a slip where the turn has the form of telling something.
    kind: str = entry.kind
    if not entry.write:
        own = _own_words(entry, turn, talk, policy)
        if not (entry.text and own):
            return [], "not kept"
        kind = str(own[0].metadata["kind"])
    text = tidied(absolute(entry.text, local_time(turn.said_at, turn.utc_offset)))
    wrong = objection(text, turn, talk)
    if not wrong:
        return [_insert(turn, text, "llm", kind)], "written"
    if not entry.write:
        return [], "not kept"
    own = _own_words(entry, turn, talk, policy)
    return own, f"{wrong}: {'kept in their own words' if own else 'dropped'}"


def _own_words(entry: Entry, turn: Turn, talk: Talk, policy: Policy) -> list[Insert]:
    """One record of what the turn tells, as it was said; between people all that is about the speaker, and a correction."""
    told = talk.told(turn, policy)
    own, kind = joined([one.sentence for one in told]), told[0].kind if told else entry.kind
    whole = talk.own(turn)
    counts = talk.between_people or (not told and rules.corrects(whole) and not rules.is_question(whole))
    if entry.write and counts and not rules.forbidden(whole, policy.never):
        own = whole
    if not content_words(own):
        return []
    text = rules.record_text(turn, own, asked=talk.question_to(turn) if talk.between_people else "")
    return [_insert(turn, text, "rules", kind)]


def _passed_over(turn: Turn, written: Sequence[Insert], talk: Talk, policy: Policy) -> list[Insert]:
    """Sentences of a turn that was found worth a record, but of which no record tells anything."""
    records = [insert for insert in written if turn.id in insert.sources]
    told: frozenset[str] = frozenset().union(*(content_words(insert.text) for insert in records))
    if not told:
        return []
    own = [(insert, content_words(own_words(insert.text))) for insert in _by_rules(turn, talk, policy)]
    passed = [insert for insert, words in own if len(words) >= 2 and share(words, told) < PASSED_OVER]
    return [insert for insert in passed if not rules.leans(own_words(insert.text))]


def _overlooked(
    number: int, turn: Turn, entries: Sequence[Entry], written: Sequence[Insert], talk: Talk, policy: Policy
) -> list[Insert]:
    """A turn that plainly tells something, by its form, but was taken for something else, or left out."""
    kinds = {entry.kind for entry in entries if entry.turn == number}
    kept = any(turn.id in insert.sources for insert in written)
    mistaken = {"general_question", "small_talk", *(["task_request"] if rules.of_oneself(turn.text) else [])}
    if kept or rules.is_question(turn.text) or not kinds <= mistaken:
        return []
    return _by_rules(turn, talk, policy)


# ── what is known already ──────────────────────────────────────────────────────────────────────────────────────────


async def _not_known(scope: Scope, span: Span, found: Sequence[Insert], desk: Desk) -> list[Insert]:
    """Those that no current memory says already, nor an earlier one of the same plan."""
    known = await desk.reads.memories(scope, Filters(), limit=COMPARED)
    if span.redo_of is not None:  # what the rules made of the same turns is about to be retired
        own = {source for insert in found for source in insert.sources}
        known = [memory for memory in known if not (memory.author == "rules" and own.issuperset(memory.sources))]
    texts = [memory.text for memory in known]
    fresh: list[Insert] = []
    for insert in found:
        again = any(insert.sources == other.sources and _contained(insert.text, other.text) for other in fresh)
        if not again and not any(says_the_same(insert.text, text) for text in texts):
            fresh.append(insert)
            texts.append(insert.text)
    return fresh


def _contained(text: str, other: str) -> bool:
    """Whether a second record of the same turn says nothing that the first does not."""
    return share(content_words(own_words(text)), content_words(other)) >= CONTAINED


def says_the_same(one: str, other: str, least: float = SAME) -> bool:
    """Nearly the same words, and not one name or number apart."""
    one, other = own_words(one), own_words(other)
    if alike(content_words(one), content_words(other)) < least:
        return False
    return names_in(one) == names_in(other) and numbers_in(one) == numbers_in(other)
