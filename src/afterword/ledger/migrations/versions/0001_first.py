"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for make in (
        _scope,
        _chat,
        _turn,
        _memory,
        _version,
        _rests,
        _entry,
        _vector,
        _change,
        _receipt,
        _decision,
        _job,
        _lane,
        _run,
    ):
        make()


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def _scope() -> None:
    op.create_table(
        "scope",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("utc_offset", sa.Integer()),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("tenant", "user_id", name="scope_name"),
    )


def _chat() -> None:
    op.create_table(
        "chat",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("next", sa.Integer(), nullable=False),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("decided", sa.Integer(), nullable=False),
        sa.Column("last_user", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "id"),
    )
    op.create_index("chat_lagging", "chat", ["scope_id"], **_where("last_user >= decided"))
    op.create_index("chat_newest", "chat", ["scope_id", "last_at"])


def _turn() -> None:
    op.create_table(
        "turn",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("chat_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("speaker", sa.Text()),
        sa.Column("said_at", sa.BigInteger(), nullable=False),
        sa.Column("utc_offset", sa.Integer(), nullable=False),
        sa.Column("stored_at", sa.BigInteger(), nullable=False),
        sa.Column("reply_to", sa.Text()),
        sa.Column("cut", sa.Text()),
        sa.Column("searchable", sa.Integer(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "id"),
        sa.UniqueConstraint("scope_id", "chat_id", "position", name="turn_position"),
        sa.UniqueConstraint("scope_id", "reply_to", name="turn_reply"),
    )


def _memory() -> None:
    op.create_table(
        "memory",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("chat_id", sa.Text()),
        sa.Column("said_at", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("retired", sa.Text()),
        sa.Column("strength", sa.Float(), nullable=False),
        sa.Column("used_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("scope_id", "id"),
    )
    op.create_index("memory_newest", "memory", ["scope_id", "said_at"])
    op.create_index("memory_seq", "memory", ["scope_id", "kind", "seq"])


def _version() -> None:
    op.create_table(
        "version",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("said_at", sa.BigInteger(), nullable=False),
        sa.Column("utc_offset", sa.Integer(), nullable=False),
        sa.Column("written_at", sa.BigInteger(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("valid_from", sa.BigInteger()),
        sa.Column("valid_to", sa.BigInteger()),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("job_id", sa.BigInteger()),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "id", "version"),
    )
    op.create_index("version_job", "version", ["scope_id", "job_id"])


def _rests() -> None:
    op.create_table(
        "rests",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "source", "record"),
    )
    op.create_index("rests_record", "rests", ["scope_id", "record"])


def _entry() -> None:
    op.create_table(
        "entry",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("role", sa.Text()),
        sa.Column("chat_id", sa.Text()),
        sa.Column("position", sa.Integer()),
        sa.Column("said_at", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.Text(), nullable=False),
        sa.Column("tokenizer", sa.Integer(), nullable=False),
        sa.Column("sources", sa.JSON(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.PrimaryKeyConstraint("scope_id", "record"),
    )
    op.create_index("entry_model", "entry", ["model", "scope_id"])
    op.create_index("entry_unembedded", "entry", ["scope_id", "model", "said_at"])


def _vector() -> None:
    op.create_table(
        "vector",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("windows", sa.Integer(), nullable=False),
        sa.Column("dim", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "record", "model"),
    )
    op.create_index("vector_model", "vector", ["scope_id", "model"])


def _change() -> None:
    op.create_table(
        "change",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "seq"),
    )
    op.create_index("change_record", "change", ["scope_id", "record"], unique=True)


def _receipt() -> None:
    op.create_table(
        "receipt",
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("reply_id", sa.Text(), nullable=False),
        sa.Column("chat_id", sa.Text(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("missed", sa.Text(), nullable=False),
        sa.Column("recall_ms", sa.Float(), nullable=False),
        sa.Column("worked", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scope_id", "reply_id"),
    )
    op.create_index("receipt_open", "receipt", ["created_at"], **_where("worked = 0"))


def _decision() -> None:
    op.create_table(
        "decision",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("chat_id", sa.Text()),
        sa.Column("first", sa.Integer()),
        sa.Column("last", sa.Integer()),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.Column("redone_by", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("decision_by_rules", "decision", ["id"], **_where("author = 'rules' AND redone_by IS NULL"))
    op.create_index("decision_chat", "decision", ["scope_id", "chat_id"])
    op.create_index("decision_job", "decision", ["scope_id", "job_id"])
    op.create_index(
        "decision_own_rules", "decision", ["scope_id", "id"], **_where("author = 'rules' AND redone_by IS NULL")
    )


def _job() -> None:
    op.create_table(
        "job",
        sa.Column("id", _SERIAL, nullable=False),
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text()),
        sa.Column("key", sa.Text()),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("chat_id", sa.Text()),
        sa.Column("reply_id", sa.Text()),
        sa.Column("run_id", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("head", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("run_at", sa.BigInteger(), nullable=False),
        sa.Column("delay", sa.Float(), nullable=False),
        sa.Column("latest", sa.BigInteger()),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger()),
        sa.Column("window", sa.JSON()),
        sa.Column("worker", sa.Text()),
        sa.Column("lease_until", sa.BigInteger()),
        sa.Column("waiting", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("result", sa.JSON()),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    _job_indexes()


def _job_indexes() -> None:
    op.create_index("job_finished", "job", ["finished_at"], **_where("finished_at IS NOT NULL"))
    op.create_index(
        "job_key", "job", ["scope_id", "key"], unique=True, **_where("state = 'queued' AND key IS NOT NULL")
    )
    op.create_index("job_lease", "job", ["lease_until"], **_where("state = 'running'"))
    op.create_index("job_live", "job", ["scope_id", "kind", "chat_id"], **_where("finished_at IS NULL"))
    op.create_index("job_ready", "job", ["lane", "run_at", "id"], **_where("state = 'queued' AND head = 1"))
    op.create_index("job_running", "job", ["lane"], unique=True, **_where("state = 'running'"))
    op.create_index("job_state", "job", ["scope_id", "state", "id"])
    op.create_index("job_stream", "job", ["scope_id", "stream", "id"], **_where("finished_at IS NULL"))
    op.create_index("job_waiting", "job", ["scope_id"], **_where("state = 'queued'"))


def _lane() -> None:
    op.create_table(
        "lane",
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("ready_at", sa.BigInteger()),
        sa.Column("busy", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("lane"),
    )
    op.create_index("lane_ready", "lane", ["ready_at"], **_where("busy = 0"))
    op.create_index("lane_scope", "lane", ["scope_id"])


def _run() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("scope_id", _SERIAL, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger()),
        sa.Column("reached", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("run_newest", "run", ["scope_id", "started_at"])
    op.create_index("run_running", "run", ["scope_id", "kind"], unique=True, **_where("state = 'running'"))
