"""Consolidation: new episodes are merged into semantic facts, chunk by chunk, with progress in the ledger.

A run reads the episodes whose change numbers lie above the last run's cursor, up to where the scope stood when it
began; each chunk is a job of its own, so that other work of the user comes in between and a crash costs one chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.asking import ask
from afterword.decisions import WRITTEN_KINDS, FactChange, grounded, invented_details, lost_details, read_facts
from afterword.lanes import consolidate_job, embed_job
from afterword.language.slips import slip
from afterword.language.texts import content_words
from afterword.plan import Change, Insert, Plan, Progress, Retire, Revise
from afterword.ports import Step
from afterword.prompts import consolidate_question
from afterword.records import Filters, MemoryRecord
from afterword.remember import says_the_same
from afterword.topics import lasting, subject, subjects, topics

if TYPE_CHECKING:
    from afterword.ports import LLM, Desk
    from afterword.records import Job, Json, NewJob, Scope

FACTS_READ = 1000
FACTS_SHOWN = 20
NEIGHBOURS = 500  # newest episodes that rules look for repetitions in
REPEATED = 0.8
PAGE = 500
STABLE = WRITTEN_KINDS - {"plan_or_event"}


@dataclass(frozen=True, slots=True)
class _Run:
    """Where a run stands. `until`: the change number at which it ends."""

    id: str
    cursor: int
    until: int
    done: int
    total: int


def first_job(scope: Scope) -> NewJob:
    """The job a run begins with; `start_run` adds the run's id."""
    return consolidate_job(scope)


async def decide(job: Job, desk: Desk) -> Plan:
    """One chunk. Raises `BadAnswer`, `LLMUnavailable`."""
    run = await _run(job, desk)
    found = await desk.reads.episodes_after(job.scope, run.cursor, desk.policy.consolidate_chunk)
    chunk = [(seq, episode) for seq, episode in found if seq <= run.until]
    if not chunk:
        return Plan((_progress(run, run.done, run.cursor, "no new episodes" if not run.done else "", last=True),))
    episodes = [episode for _, episode in chunk]
    facts = await desk.reads.memories(job.scope, Filters(kinds=("semantic",)), limit=FACTS_READ)
    message = ""
    if desk.llm is None or desk.llm.quotes:
        changes, decision = await _by_rules(job.scope, episodes, facts, desk)
        message = "" if changes else "no LLM is set: nothing to merge"
    else:
        changes, decision = await _by_llm(desk.llm, episodes, nearest(facts, episodes), facts, desk)
    done, cursor = run.done + len(chunk), chunk[-1][0]
    after = await desk.reads.episodes_after(job.scope, cursor, 1)
    last = not after or after[0][0] > run.until
    jobs = [embed_job(job.scope)] if changes and desk.embedder is not None else []
    if not last:
        state = {"run_id": run.id, "cursor": cursor, "until": run.until, "done": done, "total": run.total}
        jobs.append(consolidate_job(job.scope, {**job.payload, **state}))
    return Plan((*changes, _progress(run, done, cursor, message, last=last)), decision, tuple(jobs))


STEP = Step("consolidate", decide, timeout=300.0)


async def _run(job: Job, desk: Desk) -> _Run:
    payload = job.payload
    if "cursor" in payload:
        return _Run(payload["run_id"], payload["cursor"], payload["until"], payload["done"], payload["total"])
    state = await desk.reads.state(job.scope)
    cursor = await desk.reads.consolidated_to(job.scope)
    total, at = 0, cursor
    while page := await desk.reads.episodes_after(job.scope, at, PAGE):
        total += len(page)
        at = page[-1][0]
    return _Run(payload["run_id"], cursor, max(state.seq, at), 0, total)


def _progress(run: _Run, done: int, cursor: int, message: str, *, last: bool) -> Progress:
    total = done if last else max(run.total, done)
    return Progress(run.id, done, total, message, finished=last, cursor=cursor)


def nearest(
    facts: Sequence[MemoryRecord], episodes: Sequence[MemoryRecord], most: int = FACTS_SHOWN
) -> list[MemoryRecord]:
    """The facts that share words with these episodes, those that share most first."""
    words: frozenset[str] = frozenset().union(*(content_words(episode.text) for episode in episodes))
    shared = [(len(content_words(fact.text) & words), fact) for fact in facts]
    best = sorted((pair for pair in shared if pair[0]), key=lambda pair: (-pair[0], pair[1].id))
    return [fact for _, fact in best[:most]]


# ── by the LLM ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _by_llm(
    llm: LLM, episodes: list[MemoryRecord], shown: list[MemoryRecord], facts: list[MemoryRecord], desk: Desk
) -> tuple[list[Change], Json]:
    found = topics(episodes, shown)
    if not found:
        return [], {"by": "llm", "calls": 0, "note": "nothing that lasts"}
    question = consolidate_question(episodes, shown, found, desk.policy)
    answered = await ask(llm, question, lambda text: read_facts(text, range(1, len(found) + 1)))
    changes: list[Change] = []
    notes: list[Json] = []
    touched: set[str] = set()
    texts = [fact.text for fact in facts]
    for wanted in answered.value:
        topic = found[wanted.topic - 1]
        old = shown[topic.fact - 1] if topic.fact and wanted.action != "add" else None
        support = [episodes[number - 1] for number in topic.episodes]
        note = _objection(wanted, old, support, texts, touched)
        others = subjects(episodes) - {subject(episode.text) for episode in support}
        if not note and subject(wanted.text) in others:
            note = "left: told of somebody else"
        if not note:
            changes += _carried_out(wanted, old, support)
            texts.append(wanted.text)
            touched |= {old.id} if old else set()
        notes.append(
            {"action": wanted.action, "fact": old.id if old else "", "text": wanted.text, "note": note or "done"}
        )
    return changes, {"by": "llm", "model": answered.model, "calls": answered.calls, "changes": notes}


def _objection(
    wanted: FactChange,
    old: MemoryRecord | None,
    support: Sequence[MemoryRecord],
    texts: Sequence[str],
    touched: set[str],
) -> str:
    """Why this change is not made, "" when it is."""
    evidence = "\n".join(episode.text for episode in support)
    before = f"{old.text}\n" if old else ""
    if old is not None and (old.author == "person" or old.id in touched):
        return "left: a person wrote it" if old.author == "person" else "left: changed already"
    if any(says_the_same(wanted.text, text) for text in texts):
        return "known already"
    if old is None and len(support) == 1 and not (lasting(wanted.text) or _wish(support[0])):
        return "left: what happened once is no lasting fact"
    wrong = slip(wanted.text, evidence, "", [])
    if wrong:
        return f"left: {wrong}"
    if not grounded(wanted.text, before + evidence):
        return "left: the episodes do not say so"
    invented = invented_details(wanted.text, before + evidence)
    if invented:
        return f"left: nobody said {', '.join(invented)}"
    if old is not None and wanted.action == "revise":
        lost = lost_details(old.text, wanted.text, evidence)
        return f"left: it would lose {', '.join(lost)}" if lost else ""
    return ""


def _wish(episode: MemoryRecord) -> bool:
    return episode.metadata.get("kind") == "preference_or_instruction"


def _carried_out(wanted: FactChange, old: MemoryRecord | None, support: Sequence[MemoryRecord]) -> list[Change]:
    newest = max(support, key=lambda episode: (episode.said_at, episode.id))
    sources = tuple(dict.fromkeys(episode.id for episode in support))
    why = f"{wanted.action}: {len(sources)} episode{'s' if len(sources) > 1 else ''}"
    if old is not None and wanted.action == "revise":
        return [Revise(old.ref, wanted.text, "llm", sources, why=why, said_at=newest.said_at)]
    since = newest if wanted.action == "supersede" else min(support, key=lambda episode: (episode.said_at, episode.id))
    new = Insert(
        "semantic",
        wanted.text,
        newest.said_at,
        newest.utc_offset,
        sources,
        "llm",
        valid_from=since.said_at,
        why=why,
        metadata={"supersedes": old.id} if old else {},
    )
    retired = [Retire(old.ref, f"superseded: {wanted.text}", valid_to=newest.said_at)] if old else []
    return [*retired, new]


# ── by rules ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _by_rules(
    scope: Scope, episodes: Sequence[MemoryRecord], facts: Sequence[MemoryRecord], desk: Desk
) -> tuple[list[Change], Json]:
    """What a person said about themselves more than once, in nearly the same words, is a fact; nothing else is."""
    around = await desk.reads.memories(scope, Filters(kinds=("episodic",)), limit=NEIGHBOURS)
    texts = [fact.text for fact in facts]
    changes: list[Change] = []
    for episode in episodes:
        if episode.metadata.get("kind") not in STABLE or any(
            says_the_same(episode.text, text, REPEATED) for text in texts
        ):
            continue
        same = [other for other in around if says_the_same(episode.text, other.text, REPEATED)]
        group = {memory.id: memory for memory in [*same, episode]}
        if len(group) < 2:
            continue
        ordered = sorted(group.values(), key=lambda memory: (memory.said_at, memory.id))
        newest = ordered[-1]
        texts.append(newest.text)
        changes.append(
            Insert(
                "semantic",
                newest.text,
                newest.said_at,
                newest.utc_offset,
                tuple(memory.id for memory in ordered),
                "rules",
                valid_from=ordered[0].said_at,
                why=f"said {len(ordered)} times",
            )
        )
    return changes, {"by": "rules", "calls": 0, "facts": len(changes)}
