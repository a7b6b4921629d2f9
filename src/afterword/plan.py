"""What a step decided and the worker has not yet done. A plan is applied whole, in one transaction, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from afterword.records import Author, Json, MemoryKind, NewJob, Ref

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]  # (windows, dimensions), each row of length 1


@dataclass(frozen=True, slots=True)
class Insert:
    """A new memory. Its id is derived from the job and its place in the plan, so a replay can't double it."""

    kind: MemoryKind
    text: str
    said_at: datetime
    utc_offset: int
    sources: tuple[str, ...]
    author: Author
    chat_id: str | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    why: str = ""
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Revise:
    """A new version of the record at `ref`; `VersionConflict` if it has moved on. `sources` are added to the old ones.

    `said_at`, `valid_from` and `valid_to` replace the old values when given.
    """

    ref: Ref
    text: str
    author: Author
    sources: tuple[str, ...] = ()
    why: str = ""
    said_at: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Retire:
    """The record is no longer current (superseded, merged, contradicted). Its versions stay in its history."""

    ref: Ref
    why: str
    valid_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Erase:
    """The record, a turn too, is gone with all its versions, vectors and tokens; a tombstone without text stays."""

    record: str


@dataclass(frozen=True, slots=True)
class Strengthen:
    """A memory was used: its strength becomes `strength` as of `at`. No new version; lost races don't matter."""

    record: str
    strength: float
    at: datetime


@dataclass(frozen=True, slots=True)
class StoreVectors:
    """The embedding of one version under one model. Skipped if the version is no longer current."""

    ref: Ref
    model: str
    vectors: Vectors


@dataclass(frozen=True, slots=True)
class ServeModel:
    """From now on this model's vectors serve the scope's searches; those of other models are deleted."""

    model: str


@dataclass(frozen=True, slots=True)
class Decided:
    """Turns `first` to `last` (positions, both included) of a chat were decided; moves the cursor, never back.

    `redo_of` names the earlier decision (by rules) that this one replaces: what that one inserted is retired.
    """

    chat_id: str
    first: int
    last: int
    by: Author
    redo_of: int | None = None


@dataclass(frozen=True, slots=True)
class Reconsolidated:
    """The reply's receipt has been worked through."""

    reply_id: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands after this job. `finished` ends it."""

    run_id: str
    done: int
    total: int
    message: str = ""
    finished: bool = False
    cursor: int | None = None  # the highest change seq the run has worked through


Change = Insert | Revise | Retire | Erase | Strengthen | StoreVectors | ServeModel | Decided | Reconsolidated | Progress


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in order, the decision they came from (kept for audit), and the jobs that follow."""

    changes: tuple[Change, ...] = ()
    decision: Json = field(default_factory=dict)
    jobs: tuple[NewJob, ...] = ()
