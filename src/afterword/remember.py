"""The write decider: do a chat's new turns hold something worth an episodic memory, and in which words?

The turns after the chat's cursor are read, a window of them at a time. Recalled memories are never in this prompt, so
they can't be taken for something the user said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword import rules
from afterword.asking import ask
from afterword.dates import absolute
from afterword.decisions import Entry, grounded, invented_details, names_in, numbers_in, read_entries
from afterword.lanes import embed_job, remember_job
from afterword.plan import Change, Decided, Insert, Plan
from afterword.ports import Step
from afterword.prompts import is_person, remember_question, said_by
from afterword.records import Filters, local_time
from afterword.slips import slip, tidied
from afterword.texts import alike, content_words, estimate_tokens, language_of, own_words, share

if TYPE_CHECKING:
    from afterword.ports import LLM, Desk, Policy
    from afterword.records import Author, Job, Json, NewJob, NewTurn, Scope, Turn

CONTEXT_TURNS = 4
COMPARED = 200  # newest memories that a new one is compared with
SAME = 0.9
AROUND = 0.75  # of a record's words that stand in other turns than its own: small models mix turns up
COVERED = 0.25
CONTAINED = 0.8
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
    """The turns after the cursor, as many as `policy` lets into one call, at least one."""
    chat_id: str = job.payload["chat_id"]
    first = await desk.reads.cursor(job.scope, chat_id)
    turns = await desk.reads.turns(job.scope, chat_id, first=first, limit=desk.policy.window_turns)
    last, room = first - 1, desk.policy.window_tokens
    for place, turn in enumerate(turns):
        room -= estimate_tokens(turn.text)
        if room < 0 and place > 0:
            break
        last = turn.position
    return {"chat_id": chat_id, "first": first, "last": last}


async def decide(job: Job, desk: Desk) -> Plan:
    """Raises `BadAnswer`, `LLMUnavailable`."""
    fixed = job.window or await window(job, desk)
    span = Span(fixed["chat_id"], fixed["first"], fixed["last"])
    if span.last < span.first:
        return Plan(decision={"note": "no new turns"})
    changes, decision = await decide_span(job.scope, span, desk)
    embedding = (embed_job(job.scope),) if desk.embedder is not None else ()
    return Plan(changes, decision, embedding + await next_jobs(job.scope, span.chat_id, span.last, desk))


async def next_jobs(scope: Scope, chat_id: str, last: int, desk: Desk) -> tuple[NewJob, ...]:
    """The job for what was said after position `last`, if anything was."""
    if await desk.reads.turns(scope, chat_id, first=last + 1, limit=1):
        return (remember_job(scope, chat_id, 0.0, 0.0),)
    return ()


STEP = Step("remember", decide, window, timeout=300.0)


async def decide_span(scope: Scope, span: Span, desk: Desk) -> tuple[tuple[Change, ...], Json]:
    """What these turns become, by the LLM or by rules, and the decision that moves the cursor past them."""
    new = await desk.reads.turns(scope, span.chat_id, first=span.first, last=span.last)
    llm = None if desk.llm is None or desk.llm.quotes else desk.llm
    found: list[Insert] = []
    if all(not is_person(turn) or rules.teaches_nothing(turn.text) for turn in new):
        # The same with and without an LLM, so there is nothing for one to read again later.
        by: Author = "llm"
        decision: Json = {"by": "llm", "calls": 0, "note": "questions and small talk only"}
    elif llm is None:
        by, decision = "rules", {"by": "rules", "calls": 0}
        told = [insert for turn in new for insert in _by_rules(turn)]
        found = [insert for insert in told if not _forbidden(insert, desk.policy)]
    else:
        by = "llm"
        found, decision = await _by_llm(scope, span, new, llm, desk)
    fresh = await _not_known(scope, span, found, desk) if found else []
    skipped = len(found) - len(fresh)
    kept = {**decision, "written": len(fresh), "known_already": skipped}
    return (*fresh, Decided(span.chat_id, span.first, span.last, by, span.redo_of)), kept


# ── by rules ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_rules(turn: Turn) -> list[Insert]:
    return [_insert(turn, told.text, (turn.id,), "rules", told.kind) for told in rules.told(turn)]


def _insert(turn: Turn, text: str, sources: tuple[str, ...], author: Author, kind: str) -> Insert:
    return Insert(
        "episodic",
        text,
        turn.said_at,
        turn.utc_offset,
        sources,
        author,
        chat_id=turn.chat_id,
        why=kind.replace("_", " "),
        metadata={"kind": kind},
    )


# ── by the LLM ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _by_llm(
    scope: Scope, span: Span, new: list[Turn], llm: LLM, desk: Desk
) -> tuple[list[Insert], dict[str, object]]:
    earlier = max(0, span.first - CONTEXT_TURNS)
    before = await desk.reads.turns(scope, span.chat_id, first=earlier, last=span.first - 1) if span.first else []
    numbered = {number: turn for number, turn in enumerate(new, 1) if is_person(turn)}
    wanted = [number for number, turn in numbered.items() if not rules.teaches_nothing(turn.text)]
    question = remember_question(before, new, desk.policy, wanted)
    answered = await ask(llm, question, lambda text: read_entries(text, range(1, len(new) + 1)))
    inserts: list[Insert] = []
    notes: list[Json] = []
    for entry in answered.value:
        insert, note = _judged(entry, numbered, [*before, *new])
        inserts += insert
        notes.append({"turns": list(entry.turns), "kind": entry.kind, "record": entry.text, "note": note})
    inserts += [missed for turn in new for missed in _passed_over(turn, inserts)]
    inserts += [
        missed for number in wanted for missed in _overlooked(number, numbered[number], answered.value, inserts)
    ]
    inserts = [insert for insert in inserts if insert.author == "llm" or not _forbidden(insert, desk.policy)]
    return inserts, {"by": "llm", "model": answered.model, "calls": answered.calls, "entries": notes}


def _judged(entry: Entry, numbered: dict[int, Turn], shown: Sequence[Turn]) -> tuple[list[Insert], str]:
    """An entry as an insert, if it rests on a person's turn and tells what was said there; else in their own words."""
    sources = [numbered[number] for number in entry.turns if number in numbered]
    own = [insert for source in sources for insert in _by_rules(source)]
    # A record under a kind that has none: the kind is a slip where the turn has the form of telling something.
    if not entry.write and not (entry.text and own):
        return [], "not kept"
    if not sources:
        return [], "rests on no turn of a person"
    turn = sources[-1]
    kind = entry.kind if entry.write else str(own[0].metadata["kind"])
    text = tidied(absolute(entry.text, local_time(turn.said_at, turn.utc_offset)))
    if text and not _slip(text, sources, shown) and _rests_on(text, sources, shown):
        return [_insert(turn, text, tuple(source.id for source in sources), "llm", kind)], "written"
    if not entry.write:
        return [], "not kept"
    return own, "not what was said: kept in the person's own words" if own else "not what was said: dropped"


def _passed_over(turn: Turn, written: Sequence[Insert]) -> list[Insert]:
    """Sentences of a turn that was found worth a record, but of which no record tells anything."""
    records = [insert for insert in written if turn.id in insert.sources]
    told: frozenset[str] = frozenset().union(*(content_words(insert.text) for insert in records))
    if not told:
        return []
    own = [(insert, content_words(own_words(insert.text))) for insert in _by_rules(turn)]
    return [insert for insert, words in own if len(words) >= 2 and share(words, told) < COVERED]


def _overlooked(number: int, turn: Turn, entries: Sequence[Entry], written: Sequence[Insert]) -> list[Insert]:
    """A turn that plainly tells something, by its form, but was taken for a question or small talk, or left out."""
    kinds = {entry.kind for entry in entries if number in entry.turns}
    kept = any(turn.id in insert.sources for insert in written)
    if kept or rules.is_question(turn.text) or not kinds <= {"general_question", "small_talk"}:
        return []
    return _by_rules(turn)


def _forbidden(insert: Insert, policy: Policy) -> bool:
    return rules.forbidden(own_words(insert.text), policy.never)


def _slip(text: str, sources: Sequence[Turn], shown: Sequence[Turn]) -> str:
    language = language_of(text)
    people = list(dict.fromkeys(said_by(turn, language) for turn in shown if is_person(turn)))
    return slip(text, [turn.text for turn in sources], [said_by(turn, language) for turn in sources], people)


def _rests_on(text: str, sources: Sequence[Turn], shown: Sequence[Turn]) -> bool:
    """Grounded in its sources; names and numbers may also come from the turns shown around them."""
    said = "\n".join(_evidence(turn) for turn in sources)
    around = "\n".join(_evidence(turn) for turn in shown)
    persons = "\n".join(_evidence(turn) for turn in shown if is_person(turn))  # an assistant is no evidence
    people = " ".join({said_by(turn, "en") for turn in shown})
    rests = grounded(text, said, people=people) or grounded(text, persons, least=AROUND, people=people)
    return rests and not invented_details(text, around)


def _evidence(turn: Turn) -> str:
    """The turn as the prompt showed it: with its date, its speaker and its times worked out."""
    return f"{rules.record_text(turn, turn.text, whole=True)} {said_by(turn, 'en')}"


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
