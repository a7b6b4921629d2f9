"""Embeddings: what was written is embedded in batches; a changed model is brought in behind the old one's back.

A text longer than the model's window is embedded in windows, at most 16, and the best one counts in a search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.lanes import embed_job, reembed_job
from afterword.language.texts import windows
from afterword.plan import Change, Plan, Progress, ServeModel, StoreVectors
from afterword.ports import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from afterword.ports import Desk, Embedder
    from afterword.records import Job, Ref, Scope

BATCH = 64  # records a job, and about as many windows: one job stays short
MARGIN = 8  # tokens a model adds around each text

__all__ = ["STEPS", "decide_embed", "decide_reembed", "windows"]


@dataclass(frozen=True, slots=True)
class _Embedded:
    changes: tuple[StoreVectors, ...]
    more: bool


async def decide_embed(job: Job, desk: Desk) -> Plan:
    """Embed what has no vectors under the embedder's model. Raises `EmbedderUnavailable`.

    A scope that has no model yet is served by this one from now on. While another model still serves, only the newest
    records are done here; the `reembed` run does the rest.
    """
    embedder = desk.embedder
    if embedder is None:
        return Plan(decision={"note": "no embedder is set"})
    state = await desk.reads.state(job.scope)
    done = await _batch(job.scope, desk, embedder)
    changes: tuple[Change, ...] = done.changes
    if state.model is None and changes:
        changes = (ServeModel(embedder.model), *changes)
    serving = state.model in (None, embedder.model)
    jobs = (embed_job(job.scope),) if done.more and serving else ()
    return Plan(changes, {"model": embedder.model, "embedded": len(done.changes)}, jobs)


async def decide_reembed(job: Job, desk: Desk) -> Plan:
    """One chunk under the new model; when none is lacking, it serves. Raises `EmbedderUnavailable`."""
    run_id = str(job.payload["run_id"])
    embedder = desk.embedder
    if embedder is None:
        return Plan((Progress(run_id, 0, 0, "no embedder is set", finished=True),))
    done = await _batch(job.scope, desk, embedder)
    have, total = await desk.reads.vector_counts(job.scope, embedder.model)
    have = min(total, have + len(done.changes))
    decision = {"model": embedder.model, "embedded": len(done.changes)}
    if done.changes and (done.more or have < total):
        progress = Progress(run_id, have, total, embedder.model)
        return Plan((*done.changes, progress), decision, (reembed_job(job.scope, job.payload),))
    end = Progress(run_id, have, total, embedder.model, finished=True)
    return Plan((*done.changes, ServeModel(embedder.model), end), decision)


async def _batch(scope: Scope, desk: Desk, embedder: Embedder) -> _Embedded:
    wanted = await desk.reads.unembedded(scope, embedder.model, BATCH)
    chosen: list[tuple[Ref, list[str]]] = []
    count = 0
    for ref, text in wanted:
        pieces = windows(text, max(16, embedder.max_tokens - MARGIN))
        if chosen and count + len(pieces) > BATCH:
            break
        chosen.append((ref, pieces))
        count += len(pieces)
    if not chosen:
        return _Embedded((), False)
    vectors = await embedder.passages([piece for _, pieces in chosen for piece in pieces])
    stored: list[StoreVectors] = []
    at = 0
    for ref, pieces in chosen:
        stored.append(StoreVectors(ref, embedder.model, vectors[at : at + len(pieces)]))
        at += len(pieces)
    return _Embedded(tuple(stored), len(wanted) == BATCH or len(chosen) < len(wanted))


STEPS: Sequence[Step] = (Step("embed", decide_embed), Step("reembed", decide_reembed))
