"""A plan becomes rows: whole, in one transaction, or not at all."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from afterword import plan as p
from afterword.errors import InvalidInput, NotFound, VersionConflict
from afterword.ledger import ends, erase, jobs, memories, revising, rows, schema
from afterword.records import Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from afterword.glance import News
    from afterword.ledger.tx import Held, Tx
    from afterword.records import Job, Scope

NAMESPACE = uuid.UUID("6d1f7a52-94c3-5c0e-8d5b-3f0c6a9e2b71")
PANEL: frozenset[News] = frozenset({"memories"})
NOTHING: frozenset[News] = frozenset()
BY_PERSON = (p.Insert, p.Revise, p.Retire, p.Erase)

_decision = schema.decision
_run = schema.run


def texts_of(plan: p.Plan) -> list[str]:
    """What must be tokenised before the plan is applied."""
    return [change.text for change in plan.changes if isinstance(change, p.Insert | p.Revise)]


@dataclass(slots=True)
class _Applying:
    """A plan on its way. `tokens` by text; `row` is the job's (None: a person's plan); `ids` of inserts by place."""

    held: Held
    tokens: Mapping[str, str]
    ids: Sequence[str]
    row: rows.Row | None = None
    room: jobs.Room | None = None
    decision: p.Plan = field(default_factory=p.Plan)
    refs: list[Ref] = field(default_factory=list)
    dims: dict[str, int] = field(default_factory=dict)  # of each model's vectors that are kept

    @property
    def job_id(self) -> int | None:
        return None if self.row is None else self.row.id


def apply(tx: Tx, job: Job, plan: p.Plan, tokens: Mapping[str, str], room: jobs.Room) -> list[Ref]:
    """The plan and the job's end. Raises `LeaseLost`, `EpochChanged`, `VersionConflict`."""
    held, row = jobs.own(tx, job)
    doing = _Applying(held, tokens, _ids(job, len(plan.changes)), row, room, plan)
    try:
        _run_changes(doing, plan)
    except NotFound as gone:
        raise VersionConflict(f"{gone}: it was erased since it was read") from gone
    if plan.decision and not any(isinstance(change, p.Decided) for change in plan.changes):
        ends.write_decision(held, row, rows.checked_json(plan.decision, "decision"), by="")
    result = {"wrote": [list(ref) for ref in doing.refs]}
    jobs.end(held, row, "done", result=result, error="")
    jobs.follow(held, plan.jobs, room)
    for chat_id in {change.chat_id for change in plan.changes if isinstance(change, p.Decided)}:
        ends.put_next_remember(held, chat_id, room)
    return doing.refs


def edit(
    tx: Tx, scope: Scope, plan: p.Plan, ids: Sequence[str], tokens: Mapping[str, str], room: jobs.Room
) -> list[Ref]:
    """A person's plan. Raises `VersionConflict`, `NotFound`."""
    held = tx.hold(scope)
    doing = _Applying(held, tokens, ids)
    _run_changes(doing, plan)
    jobs.follow(held, plan.jobs, room)
    return doing.refs


def news_of(plan: p.Plan) -> frozenset[News]:
    """What changes of what a page shows when a job's plan is applied."""
    told: frozenset[News] = frozenset({"jobs"})
    return told.union(*(_news_of(change) for change in plan.changes))


def _news_of(change: p.Change) -> frozenset[News]:
    if isinstance(change, p.Decided) and change.redo_of is not None:
        return PANEL  # what the decision that is made again had written is retired
    return _NEWS.get(type(change), NOTHING)


def check_edit(plan: p.Plan) -> None:
    for change in plan.changes:
        if not isinstance(change, BY_PERSON):
            raise InvalidInput(f"a person's plan can't hold {type(change).__name__}")


def _ids(job: Job, count: int) -> list[str]:
    """Of the job and the place in its plan, so that a replay can't make another record."""
    owner = f"{job.scope.tenant}\n{job.scope.user}\n{job.epoch}\n{job.id}"
    return [uuid.uuid5(NAMESPACE, f"{owner}\n{place}").hex for place in range(count)]


def _run_changes(doing: _Applying, plan: p.Plan) -> None:
    for place, change in enumerate(plan.changes):
        _DO[type(change)](doing, change, place)


def _insert(doing: _Applying, change: p.Insert, place: int) -> None:
    tokens = doing.tokens[change.text]
    doing.refs.append(revising.insert(doing.held, change, doing.ids[place], doing.job_id, tokens))


def _revise(doing: _Applying, change: p.Revise, _place: int) -> None:
    doing.refs.append(revising.revise(doing.held, change, doing.job_id, doing.tokens[change.text]))


def _retire(doing: _Applying, change: p.Retire, _place: int) -> None:
    revising.retire(doing.held, change)


def _erase(doing: _Applying, change: p.Erase, _place: int) -> None:
    if not erase.erase(doing.held, change.record) and doing.row is None:
        raise NotFound(f"no memory or turn {change.record} of this user")


def _strengthen(doing: _Applying, change: p.Strengthen, _place: int) -> None:
    revising.strengthen(doing.held, change)


def _store_vectors(doing: _Applying, change: p.StoreVectors, _place: int) -> None:
    revising.check_dimensions(doing.held, change, doing.dims)
    revising.store_vectors(doing.held, change)


def _serve_model(doing: _Applying, change: p.ServeModel, _place: int) -> None:
    revising.serve_model(doing.held, change)


def _decided(doing: _Applying, change: p.Decided, _place: int) -> None:
    """Keep the decision; where it replaces one made by rules, what that one wrote and nobody touched is retired."""
    held, row = doing.held, doing.row
    assert row is not None
    content = rows.checked_json(doing.decision.decision, "decision")
    span = {"first": change.first, "last": change.last}
    number = ends.write_decision(held, row, content, chat_id=change.chat_id, by=change.by, **span)
    ends.move_cursor(held, change.chat_id, change.last + 1)
    if change.redo_of is None:
        return
    at = _decision.c.scope_id == held.id, _decision.c.id == change.redo_of, _decision.c.redone_by.is_(None)
    old = held.conn.execute(sa.select(_decision.c.job_id).where(*at)).first()
    if old is None:
        raise VersionConflict(f"decision {change.redo_of} is gone or was made again already")
    held.conn.execute(sa.update(_decision).where(*at).values(redone_by=number))
    for record, version in memories.inserted_by(held.conn, held.id, old.job_id):
        revising.retire(held, p.Retire(Ref(record, version), "decided again by an LLM"))


def _reconsolidated(doing: _Applying, change: p.Reconsolidated, _place: int) -> None:
    doing.held.conn.execute(ends.worked_off, {"b_scope": doing.held.id, "b_reply": change.reply_id})


def _progress(doing: _Applying, change: p.Progress, _place: int) -> None:
    at = _run.c.scope_id == doing.held.id, _run.c.id == change.run_id, _run.c.state == "running"
    values: dict[str, Any] = {"done": change.done, "total": change.total, "message": change.message}
    if change.finished:
        values.update(state="done", finished_at=doing.held.now)
    if change.cursor is not None:
        values["reached"] = change.cursor
    doing.held.conn.execute(sa.update(_run).where(*at).values(**values))


_NEWS: dict[type[p.Change], frozenset[News]] = {
    p.Insert: PANEL,
    p.Revise: PANEL,
    p.Retire: PANEL,
    p.Erase: PANEL | {"turns"},
    p.Strengthen: PANEL,
    p.Progress: frozenset({"runs"}),
}
_DO: dict[type[p.Change], Callable[[_Applying, Any, int], None]] = {
    p.Insert: _insert,
    p.Revise: _revise,
    p.Retire: _retire,
    p.Erase: _erase,
    p.Strengthen: _strengthen,
    p.StoreVectors: _store_vectors,
    p.ServeModel: _serve_model,
    p.Decided: _decided,
    p.Reconsolidated: _reconsolidated,
    p.Progress: _progress,
}
