"""The tables. A change here goes with a migration; a test compares the two.

Every row of a person's data begins with `scope_id`. Times are microseconds since 1970, UTC. What an index sees of a
record stands in `entry`, one row for each current searchable record; `change` holds the newest change of each record.

Conditions of partial indexes are written out as SQL with literals, because SQLite uses such an index only where the
query says the same thing without a bound value: hence `QUEUED`, `RUNNING`, `YES` and `NO`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUEUED = sa.literal_column("'queued'", sa.String)
RUNNING = sa.literal_column("'running'", sa.String)
RULES = sa.literal_column("'rules'", sa.String)
YES = sa.literal_column("1", sa.Integer)
NO = sa.literal_column("0", sa.Integer)


def moment(microseconds: int) -> datetime:
    """What a `Moment` is stored as, read back."""
    return EPOCH + timedelta(microseconds=microseconds)


class Moment(sa.types.TypeDecorator[datetime]):
    """An aware datetime, stored as whole microseconds since 1970: exact and sortable on every database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else moment(value)


metadata = sa.MetaData()
_Serial = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_Json = sa.JSON(none_as_null=True)


def _must(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _scope_key() -> sa.Column[int]:
    return sa.Column("scope_id", _Serial, primary_key=True, autoincrement=False)


def _key(name: str, kind: sa.types.TypeEngine[Any] | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind or sa.Text(), primary_key=True, autoincrement=False)


def _partial(name: str, *columns: sa.Column[Any], where: str, unique: bool = False) -> sa.Index:
    return sa.Index(name, *columns, unique=unique, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


scope = sa.Table(
    "scope",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    _must("tenant", sa.Text()),
    _must("user_id", sa.Text()),
    _must("seq", sa.BigInteger()),
    _must("epoch", sa.BigInteger()),
    sa.Column("model", sa.Text()),
    sa.Column("utc_offset", sa.Integer),  # the last one that was named
    sa.UniqueConstraint("tenant", "user_id", name="scope_name"),
)

# `next` is the position of the next turn, `decided` the cursor, `last_user` the position of the newest user turn (-1).
chat = sa.Table(
    "chat",
    metadata,
    _scope_key(),
    _key("id"),
    _must("next", sa.Integer()),
    _must("turns", sa.Integer()),
    _must("decided", sa.Integer()),
    _must("last_user", sa.Integer()),
    _must("last_at", Moment()),
)
sa.Index("chat_newest", chat.c.scope_id, chat.c.last_at)
_partial("chat_lagging", chat.c.scope_id, where="last_user >= decided")
LAGGING = chat.c.last_user >= chat.c.decided  # chats with turns of a person that are not decided yet

turn = sa.Table(
    "turn",
    metadata,
    _scope_key(),
    _key("id"),
    _must("chat_id", sa.Text()),
    _must("position", sa.Integer()),
    _must("role", sa.Text()),
    _must("text", sa.Text()),
    sa.Column("speaker", sa.Text),
    _must("said_at", Moment()),
    _must("utc_offset", sa.Integer()),
    _must("stored_at", Moment()),
    sa.Column("reply_to", sa.Text),
    sa.Column("cut", sa.Text),
    _must("searchable", sa.Integer()),
    _must("asked", sa.Integer()),
    _must("metadata", _Json),
    sa.UniqueConstraint("scope_id", "chat_id", "position", name="turn_position"),
    sa.UniqueConstraint("scope_id", "reply_to", name="turn_reply"),
)

memory = sa.Table(
    "memory",
    metadata,
    _scope_key(),
    _key("id"),
    _must("kind", sa.Text()),
    _must("version", sa.Integer()),
    sa.Column("chat_id", sa.Text),
    _must("said_at", Moment()),
    _must("seq", sa.BigInteger()),  # of its newest version
    sa.Column("retired", sa.Text),
    _must("strength", sa.Float()),
    sa.Column("used_at", Moment),
)
sa.Index("memory_newest", memory.c.scope_id, memory.c.said_at)
sa.Index("memory_seq", memory.c.scope_id, memory.c.kind, memory.c.seq)

version = sa.Table(
    "version",
    metadata,
    _scope_key(),
    _key("id"),
    _key("version", sa.Integer()),
    _must("text", sa.Text()),
    _must("said_at", Moment()),
    _must("utc_offset", sa.Integer()),
    _must("written_at", Moment()),
    _must("author", sa.Text()),
    _must("sources", _Json),
    sa.Column("valid_from", Moment),
    sa.Column("valid_to", Moment),
    _must("why", sa.Text()),
    sa.Column("job_id", sa.BigInteger),
    _must("metadata", _Json),
)
sa.Index("version_job", version.c.scope_id, version.c.job_id)

# Which records rest on which: a memory on turns, a semantic one on episodes.
rests = sa.Table("rests", metadata, _scope_key(), _key("source"), _key("record"))
sa.Index("rests_record", rests.c.scope_id, rests.c.record)

entry = sa.Table(
    "entry",
    metadata,
    _scope_key(),
    _key("record"),
    _must("version", sa.Integer()),
    _must("kind", sa.Text()),
    sa.Column("role", sa.Text),
    sa.Column("chat_id", sa.Text),
    sa.Column("position", sa.Integer),
    _must("said_at", Moment()),
    _must("tokens", sa.Text()),
    _must("tokenizer", sa.Integer()),
    _must("sources", _Json),
    _must("metadata", _Json),
    sa.Column("model", sa.Text),  # of the vectors stored last
)
sa.Index("entry_unembedded", entry.c.scope_id, entry.c.model, entry.c.said_at)
sa.Index("entry_model", entry.c.model, entry.c.scope_id)

vector = sa.Table(
    "vector",
    metadata,
    _scope_key(),
    _key("record"),
    _key("model"),
    _must("version", sa.Integer()),
    _must("windows", sa.Integer()),
    _must("dim", sa.Integer()),
    _must("data", sa.LargeBinary()),  # float32, little-endian, row after row
)
sa.Index("vector_model", vector.c.scope_id, vector.c.model)

change = sa.Table(
    "change",
    metadata,
    _scope_key(),
    _key("seq", sa.BigInteger()),
    _must("record", sa.Text()),
    _must("version", sa.Integer()),
    _must("what", sa.Text()),
)
sa.Index("change_record", change.c.scope_id, change.c.record, unique=True)

receipt = sa.Table(
    "receipt",
    metadata,
    _scope_key(),
    _key("reply_id"),
    _must("chat_id", sa.Text()),
    _must("items", _Json),
    _must("missed", sa.Text()),
    _must("recall_ms", sa.Float()),
    _must("worked", sa.Integer()),
    _must("created_at", Moment()),
)
_partial("receipt_open", receipt.c.created_at, where="worked = 0")

decision = sa.Table(
    "decision",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    _must("scope_id", _Serial),
    _must("job_id", sa.BigInteger()),
    _must("kind", sa.Text()),
    sa.Column("chat_id", sa.Text),
    sa.Column("first", sa.Integer),
    sa.Column("last", sa.Integer),
    _must("author", sa.Text()),
    _must("content", _Json),
    _must("decided_at", Moment()),
    sa.Column("redone_by", sa.BigInteger),
    sqlite_autoincrement=True,
)
sa.Index("decision_job", decision.c.scope_id, decision.c.job_id)
sa.Index("decision_chat", decision.c.scope_id, decision.c.chat_id)
_partial("decision_by_rules", decision.c.id, where="author = 'rules' AND redone_by IS NULL")
_partial("decision_own_rules", decision.c.scope_id, decision.c.id, where="author = 'rules' AND redone_by IS NULL")

# Ids are never used twice (a reset deletes rows): a worker's old lease can't fit another job. `head`: the first
# unfinished job of its stream. `latest`: sliding moves it no further.
job = sa.Table(
    "job",
    metadata,
    sa.Column("id", _Serial, primary_key=True),
    _must("scope_id", _Serial),
    _must("epoch", sa.BigInteger()),
    _must("kind", sa.Text()),
    _must("lane", sa.Text()),
    sa.Column("stream", sa.Text),
    sa.Column("key", sa.Text),
    _must("payload", _Json),
    sa.Column("chat_id", sa.Text),
    sa.Column("reply_id", sa.Text),
    sa.Column("run_id", sa.Text),
    _must("state", sa.Text()),
    _must("head", sa.Integer()),
    _must("attempt", sa.Integer()),
    _must("fence", sa.Integer()),
    _must("run_at", Moment()),
    _must("delay", sa.Float()),  # seconds that it was put for: sliding puts it off by as much again
    sa.Column("latest", Moment),
    _must("created_at", Moment()),
    sa.Column("finished_at", Moment),
    sa.Column("window", _Json),
    sa.Column("worker", sa.Text),
    sa.Column("lease_until", Moment),
    _must("waiting", sa.Text()),
    _must("error", sa.Text()),
    sa.Column("result", _Json),
    sqlite_autoincrement=True,
)
_partial("job_key", job.c.scope_id, job.c.key, where="state = 'queued' AND key IS NOT NULL", unique=True)
_partial("job_running", job.c.lane, where="state = 'running'", unique=True)
_partial("job_lease", job.c.lease_until, where="state = 'running'")
_partial("job_ready", job.c.lane, job.c.run_at, job.c.id, where="state = 'queued' AND head = 1")
_partial("job_stream", job.c.scope_id, job.c.stream, job.c.id, where="finished_at IS NULL")
_partial("job_live", job.c.scope_id, job.c.kind, job.c.chat_id, where="finished_at IS NULL")
_partial("job_waiting", job.c.scope_id, where="state = 'queued'")
sa.Index("job_state", job.c.scope_id, job.c.state, job.c.id)
_partial("job_finished", job.c.finished_at, where="finished_at IS NOT NULL")

# One row a lane, so that a claim looks at lanes that are free and due, however many jobs one of them holds.
lane = sa.Table(
    "lane",
    metadata,
    _key("lane"),
    _must("scope_id", _Serial),
    sa.Column("ready_at", Moment),
    _must("busy", sa.Integer()),
)
_partial("lane_ready", lane.c.ready_at, where="busy = 0")
sa.Index("lane_scope", lane.c.scope_id)

run = sa.Table(
    "run",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    _must("scope_id", _Serial),
    _must("kind", sa.Text()),
    _must("state", sa.Text()),
    _must("done", sa.Integer()),
    _must("total", sa.Integer()),
    _must("message", sa.Text()),
    _must("started_at", Moment()),
    sa.Column("finished_at", Moment),
    sa.Column("reached", sa.BigInteger),  # the highest change number it has worked through
)
_partial("run_running", run.c.scope_id, run.c.kind, where="state = 'running'", unique=True)
sa.Index("run_newest", run.c.scope_id, run.c.started_at)

# What a reset empties, children first.
OF_A_SCOPE = (change, vector, entry, rests, version, memory, receipt, decision, run, job, lane, turn, chat)
