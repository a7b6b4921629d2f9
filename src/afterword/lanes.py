"""The jobs there are, and where each runs: the one place that names lanes, streams and keys.

Their texts hold tenant and user as a JSON list, so that no two users' can be alike, whatever their ids hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from afterword.records import Json, NewJob, Ref, Scope
from afterword.retries import EMBEDDER, LLM

# what each kind of job hangs on; the others need the ledger alone
NEEDS = {
    **dict.fromkeys(("remember", "reconsolidate", "consolidate", "backfill"), LLM),
    **dict.fromkeys(("embed", "reembed"), EMBEDDER),
}
REMEMBER_DELAY = 2.0  # seconds after a chat's last turn
REMEMBER_MAX_WAIT = 20.0  # seconds after the first turn that waits
EMBED_MAX_WAIT = 10.0  # seconds after the first record that waits


def _named(what: str, scope: Scope, *more: str) -> str:
    return f"{what}:{json.dumps([scope.tenant, scope.user, *more], ensure_ascii=False, separators=(',', ':'))}"


def scope_lane(scope: Scope) -> str:
    """The lane of everything that decides about a user's memories: one at a time."""
    return _named("user", scope)


def embed_lane(scope: Scope) -> str:
    """The lane of a user's embedding work, which goes on beside the deciding."""
    return _named("embed", scope)


def remember_job(
    scope: Scope, chat_id: str, delay: float = REMEMBER_DELAY, max_wait: float = REMEMBER_MAX_WAIT
) -> NewJob:
    """Decide the turns of a chat that lie beyond its cursor."""
    return NewJob(
        kind="remember",
        lane=scope_lane(scope),
        stream=_named("chat", scope, chat_id),
        key=_named("remember", scope, chat_id),
        payload={"chat_id": chat_id},
        delay=delay,
        max_wait=max_wait,
    )


def reconsolidate_job(scope: Scope, chat_id: str, reply_id: str) -> NewJob:
    """Revise the episodes that this reply used."""
    return NewJob(
        kind="reconsolidate",
        lane=scope_lane(scope),
        stream=_named("reconsolidate", scope, chat_id),
        payload={"chat_id": chat_id, "reply_id": reply_id},
    )


def correction_job(scope: Scope, chat_id: str, turn_ids: Sequence[str]) -> NewJob:
    """Revise the episodes that these turns take something back of, one turn a job."""
    return NewJob(
        kind="reconsolidate",
        lane=scope_lane(scope),
        stream=_named("reconsolidate", scope, chat_id),
        payload={"chat_id": chat_id, "turn_ids": list(turn_ids)},
    )


def reconsolidate_query_job(
    scope: Scope, query: str, refs: Sequence[Ref], said_at: datetime, utc_offset: int
) -> NewJob:
    """Revise these episodes in the light of a query, which is then the evidence."""
    return NewJob(
        kind="reconsolidate",
        lane=scope_lane(scope),
        payload={
            "query": query,
            "refs": [list(ref) for ref in refs],
            "said_at": said_at.isoformat(),
            "utc_offset": utc_offset,
        },
    )


def embed_job(scope: Scope, delay: float = 0.0) -> NewJob:
    """Embed what has no vectors yet."""
    most = EMBED_MAX_WAIT if delay else None
    return NewJob(kind="embed", lane=embed_lane(scope), key=_named("embed", scope), delay=delay, max_wait=most)


def consolidate_job(scope: Scope, payload: Json | None = None) -> NewJob:
    """One chunk of a consolidation run."""
    return _of_run("consolidate", scope_lane(scope), scope, payload)


def reembed_job(scope: Scope, payload: Json | None = None) -> NewJob:
    """One chunk of a re-embedding run."""
    return _of_run("reembed", embed_lane(scope), scope, payload)


def backfill_job(scope: Scope, payload: Json | None = None) -> NewJob:
    """One chunk of letting an LLM read again what rules have decided."""
    return _of_run("backfill", scope_lane(scope), scope, payload)


def forget_job(scope: Scope, payload: Json | None = None) -> NewJob:
    """Decay, expiry and retention of a user's memories."""
    return _of_run("forget", scope_lane(scope), scope, payload)


def _of_run(kind: str, lane: str, scope: Scope, payload: Json | None) -> NewJob:
    return NewJob(kind=kind, lane=lane, key=_named(kind, scope), payload=dict(payload or {}))
