"""Compiling statements takes tens of milliseconds the first time. It is done before the first person waits for it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from afterword.errors import NotFound
from afterword.glance import EVERYTHING, Sought
from afterword.lanes import remember_job
from afterword.ledger import apply, claims, glances, jobs, memories, shadow, turn_reads, turns
from afterword.ledger.schema import EPOCH
from afterword.plan import Decided, Insert, Plan
from afterword.records import NewReply, NewTurn, Receipt, ReceiptItem, Ref, Scope

if TYPE_CHECKING:
    import sqlalchemy as sa

    from afterword.ledger.database import Database
    from afterword.ledger.tx import Tx

SCOPE = Scope("afterword", "rehearsal")
ROOM = jobs.Room(1_000_000_000, 1_000_000_000)


class _Rehearsed(Exception):
    """Ends the rehearsal, so that nothing of it is kept."""


async def warm_up(db: Database) -> None:
    """One chat turn and its background work, written and taken back; then what a search reads."""
    with contextlib.suppress(_Rehearsed):
        await db.write(_rehearse, rank=0)
    await db.read(_look)


def _rehearse(tx: Tx) -> None:
    turn = turns.prepare(NewTurn("c", "user", "hello", turn_id="t"), "hello")
    follow = [remember_job(SCOPE, "c")]
    for _ in range(2):  # the second time the job is slid
        (stored,), _ = turns.accept(tx, SCOPE, [turn], follow, ROOM, fresh=True)
    reply = NewReply("c", stored.id, "hello", tx.now, 0)
    receipt = Receipt((ReceiptItem(Ref("t", 1), "turn", 1.0, {}),))
    turns.answer(tx, SCOPE, tx.hold(SCOPE).epoch, turns.prepare_reply(reply, receipt, "hello"), (), ROOM)
    _rehearse_work(tx)
    tx.flush()
    raise _Rehearsed


def _rehearse_work(tx: Tx) -> None:
    """A claim of whatever is due (taken back too), then the work itself."""
    jobs.put(tx.hold(SCOPE), remember_job(SCOPE, "c", delay=0.0), None)
    for job in [one for one in claims.claim(tx, "rehearsal", ["remember"], 1, 1.0) if one.scope == SCOPE]:
        episode = Insert("episodic", "hello", tx.now, 0, (), "rules")
        plan = Plan((episode, Decided("c", 0, 0, "rules")), {"kind": "x"})
        apply.apply(tx, job, plan, {"hello": "hello"}, ROOM)


def _look(conn: sa.Connection) -> None:
    shadow.changes(conn, -1, 0, 1)
    shadow.entries(conn, -1, "", 1)
    memories.read(conn, -1, [Ref("t", 1)])
    turn_reads.last_turns(conn, -1, "c", 1)
    turn_reads.turns(conn, -1, "c", 0, 1, 1)
    turn_reads.turns_at(conn, -1, [("c", 0)])
    turn_reads.receipts(conn, -1, ["t"])
    with contextlib.suppress(NotFound):
        turn_reads.opening(conn, -1, "t", 1)
    turn_reads.cursor(conn, -1, "c")
    glances.glance(conn, -1, Sought(EVERYTHING, "c", 1, "episodic", 1, EPOCH, backlog=True))
    claims.any_to_claim(conn, EPOCH, ["remember"], 1.0)
    claims.next_due(conn, ["remember"])
