"""What must hold of a ledger, each rule a query whose rows are the exceptions.

The texts of the campaigns are all different, so a text that stands twice was written twice.
"""

from __future__ import annotations

from typing import NamedTuple


class Rule(NamedTuple):
    """`kind` as in `ledger_check`; every row that `sql` gives is a finding."""

    kind: str
    says: str
    sql: str


_TOMBSTONE = (
    """EXISTS (SELECT 1 FROM change c WHERE c.scope_id = {0}.scope_id AND c.record = {1} AND c.what = 'erase')"""
)
_TURN = "EXISTS (SELECT 1 FROM turn t WHERE t.scope_id = {0}.scope_id AND t.id = {1})"
_MEMORY = "EXISTS (SELECT 1 FROM memory m WHERE m.scope_id = {0}.scope_id AND m.id = {1})"
_LIVING = """(
    SELECT scope_id, id, 1 AS version FROM turn WHERE searchable = 1
    UNION ALL SELECT scope_id, id, version FROM memory WHERE retired IS NULL
)"""
# decisions that moved a cursor and still stand: an LLM's over the rules' are the LLM's
_STANDING = "(SELECT * FROM decision WHERE last IS NOT NULL AND author != 'none' AND redone_by IS NULL)"
_WROTE = """(
    SELECT j.scope_id, j.id AS job_id, json_extract(w.value, '$[0]') AS id, json_extract(w.value, '$[1]') AS version
    FROM job j, json_each(j.result, '$.wrote') w WHERE j.state = 'done' AND j.result IS NOT NULL
)"""

_RECORDS = (
    Rule(
        "duplicated",
        "an id is a turn's and a memory's",
        "SELECT t.id FROM turn t JOIN memory m ON m.scope_id = t.scope_id AND m.id = t.id",
    ),
    Rule("duplicated", "a turn's id stands twice", "SELECT id FROM turn GROUP BY id HAVING count(*) > 1"),
    Rule("duplicated", "a memory's id stands twice", "SELECT id FROM memory GROUP BY id HAVING count(*) > 1"),
    Rule(
        "duplicated",
        "a text stands in two turns",
        # the beginnings of two replies that were cut off may be alike: every text is unlike the others in its later words
        "SELECT scope_id, text FROM turn WHERE text != '' AND cut IS NULL GROUP BY scope_id, text HAVING count(*) > 1",
    ),
    Rule(
        "duplicated",
        "a text stands in two living memories",
        """SELECT m.scope_id, v.text FROM memory m JOIN version v USING (scope_id, id, version)
        WHERE m.retired IS NULL GROUP BY m.scope_id, m.kind, v.text HAVING count(*) > 1""",
    ),
    Rule(
        "lost",
        "a memory lacks a version",
        """SELECT m.id, m.version FROM memory m WHERE m.version !=
        (SELECT count(*) FROM version v WHERE v.scope_id = m.scope_id AND v.id = m.id AND v.version <= m.version)""",
    ),
    Rule(
        "half",
        "a version that its memory does not know",
        "SELECT v.id, v.version FROM version v JOIN memory m USING (scope_id, id) WHERE v.version > m.version",
    ),
    Rule(
        "orphan",
        "a version without a memory",
        f"SELECT v.id, v.version FROM version v WHERE NOT {_MEMORY.format('v', 'v.id')}",
    ),
    Rule(
        "orphan",
        "a link from no memory",
        f"SELECT r.record, r.source FROM rests r WHERE NOT {_MEMORY.format('r', 'r.record')}",
    ),
    Rule(
        "orphan",
        "a memory that rests on nothing that was ever there",
        f"""SELECT r.record, r.source FROM rests r WHERE NOT {_TURN.format("r", "r.source")}
        AND NOT {_MEMORY.format("r", "r.source")} AND NOT {_TOMBSTONE.format("r", "r.source")}""",
    ),
    Rule(
        "half",
        "a source without its link",
        """SELECT v.id, s.value FROM version v, json_each(v.sources) s WHERE NOT EXISTS
        (SELECT 1 FROM rests r WHERE r.scope_id = v.scope_id AND r.record = v.id AND r.source = s.value)""",
    ),
    Rule(
        "orphan",
        "a reply to no turn",
        f"""SELECT a.id FROM turn a WHERE a.reply_to IS NOT NULL AND NOT {_TURN.format("a", "a.reply_to")}
        AND NOT {_TOMBSTONE.format("a", "a.reply_to")}""",
    ),
    Rule(
        "half",
        "a reply without its receipt",
        """SELECT a.id FROM turn a LEFT JOIN receipt r ON r.scope_id = a.scope_id AND r.reply_id = a.id
        WHERE a.reply_to IS NOT NULL AND r.reply_id IS NULL""",
    ),
    Rule(
        "orphan",
        "a receipt without its reply",
        f"SELECT r.reply_id FROM receipt r WHERE NOT {_TURN.format('r', 'r.reply_id')}",
    ),
    Rule(
        "orphan",
        "a row of no user",
        """SELECT 'turn', id FROM turn WHERE scope_id NOT IN (SELECT id FROM scope)
        UNION ALL SELECT 'memory', id FROM memory WHERE scope_id NOT IN (SELECT id FROM scope)
        UNION ALL SELECT 'job', id FROM job WHERE scope_id NOT IN (SELECT id FROM scope)""",
    ),
    Rule(
        "disorder",
        "a chat's counters are not its turns'",
        """SELECT c.scope_id, c.id FROM chat c WHERE c.turns !=
        (SELECT count(*) FROM turn t WHERE t.scope_id = c.scope_id AND t.chat_id = c.id)
        OR c.next <= (SELECT coalesce(max(position), -1) FROM turn t WHERE t.scope_id = c.scope_id AND t.chat_id = c.id)
        OR c.last_user != (SELECT coalesce(max(position), -1) FROM turn t
            WHERE t.scope_id = c.scope_id AND t.chat_id = c.id AND t.role = 'user')""",
    ),
    Rule(
        "orphan",
        "a turn of no chat",
        "SELECT t.id FROM turn t LEFT JOIN chat c ON c.scope_id = t.scope_id AND c.id = t.chat_id WHERE c.id IS NULL",
    ),
)

_DECISIONS = (
    Rule(
        "half",
        "written by a job that has not ended",
        "SELECT v.id, j.id FROM version v JOIN job j ON j.id = v.job_id WHERE j.state != 'done'",
    ),
    Rule(
        "lost",
        "a job that ended by a decision of which there is none",
        """SELECT j.id FROM job j WHERE j.kind IN ('remember', 'embed') AND j.state = 'done' AND NOT EXISTS
        (SELECT 1 FROM decision d WHERE d.job_id = j.id AND d.author != 'none')""",
    ),
    Rule(
        "duplicated",
        "a job with two decisions",
        "SELECT job_id FROM decision WHERE author != 'none' GROUP BY job_id HAVING count(*) > 1",
    ),
    Rule("orphan", "a decision of no job", "SELECT id FROM decision WHERE job_id NOT IN (SELECT id FROM job)"),
    Rule(
        "half",
        "a decision wrote more or less than it says",
        """SELECT d.id, json_extract(d.content, '$.written') FROM decision d
        WHERE json_extract(d.content, '$.written') IS NOT NULL AND json_extract(d.content, '$.written') !=
        (SELECT count(*) FROM version v WHERE v.scope_id = d.scope_id AND v.job_id = d.job_id AND v.version = 1)""",
    ),
    Rule(
        "lost",
        "what a job says that it wrote is not there",
        f"""SELECT w.job_id, w.id, w.version FROM {_WROTE} w LEFT JOIN version v
        ON v.scope_id = w.scope_id AND v.id = w.id AND v.version = w.version AND v.job_id = w.job_id
        WHERE v.id IS NULL""",
    ),
    Rule(
        "duplicated",
        "a job wrote what it does not say",
        f"""SELECT v.job_id, v.id FROM version v JOIN job j ON j.id = v.job_id AND j.result IS NOT NULL
        LEFT JOIN {_WROTE} w ON w.job_id = v.job_id AND w.id = v.id AND w.version = v.version WHERE w.id IS NULL""",
    ),
    Rule(
        "duplicated",
        "turns were decided twice",
        f"""SELECT a.chat_id, a.id, b.id FROM {_STANDING} a JOIN {_STANDING} b ON a.scope_id = b.scope_id
        AND a.chat_id = b.chat_id AND a.id < b.id AND a.first <= b.last AND b.first <= a.last""",
    ),
    Rule(
        "duplicated",
        "a turn was remembered by two jobs",
        """SELECT v.scope_id, s.value FROM version v JOIN memory m USING (scope_id, id), json_each(v.sources) s
        WHERE v.version = 1 AND m.kind = 'episodic' AND v.job_id IS NOT NULL
        AND coalesce(m.retired, '') != 'decided again by an LLM'
        AND NOT (v.author = 'rules' AND m.version > 1)  -- an LLM's decision leaves what somebody has touched since
        GROUP BY v.scope_id, s.value HAVING count(DISTINCT v.job_id) > 1""",
    ),
    Rule(
        "half",
        "a cursor is not where its decisions end",
        """SELECT c.scope_id, c.id, c.decided FROM chat c WHERE c.decided != (SELECT coalesce(max(d.last), -1) + 1
        FROM decision d WHERE d.scope_id = c.scope_id AND d.chat_id = c.id AND d.last IS NOT NULL)""",
    ),
    Rule(
        "lost",
        "turns before this decision were passed over",
        """SELECT d.chat_id, d.id, d.first FROM decision d WHERE d.kind = 'remember' AND d.first > 0 AND NOT EXISTS
        (SELECT 1 FROM decision e WHERE e.scope_id = d.scope_id AND e.chat_id = d.chat_id AND e.last = d.first - 1)
        AND NOT EXISTS (SELECT 1 FROM job j WHERE j.scope_id = d.scope_id AND j.chat_id = d.chat_id
            AND j.finished_at IS NULL AND json_extract(j.window, '$.last') = d.first - 1)  -- its successor was cancelled
        """,
    ),
    Rule(
        "disorder",
        "a chat was decided out of order",
        f"""SELECT a.chat_id, a.id, b.id FROM {_STANDING} a JOIN {_STANDING} b ON a.scope_id = b.scope_id
        AND a.chat_id = b.chat_id AND a.kind = 'remember' AND b.kind = 'remember' AND a.id < b.id AND a.first > b.first
        WHERE NOT EXISTS (SELECT 1 FROM decision n WHERE n.author = 'none' AND n.job_id IN (a.job_id, b.job_id))""",
    ),
)

_INDEX = (
    Rule(
        "differs",
        "a living record is shown to no index",
        f"""SELECT l.id FROM {_LIVING} l LEFT JOIN entry e ON e.scope_id = l.scope_id AND e.record = l.id
        AND e.version = l.version WHERE e.record IS NULL""",
    ),
    Rule(
        "differs",
        "an index is shown what is not living",
        f"""SELECT e.record FROM entry e LEFT JOIN {_LIVING} l ON l.scope_id = e.scope_id AND l.id = e.record
        AND l.version = e.version WHERE l.id IS NULL""",
    ),
    Rule(
        "differs",
        "an index is not told of an entry",
        """SELECT e.record FROM entry e LEFT JOIN change c ON c.scope_id = e.scope_id AND c.record = e.record
        AND c.version = e.version AND c.what IN ('insert', 'revise', 'embedded') WHERE c.record IS NULL""",
    ),
    Rule(
        "differs",
        "an index is told of an entry that is not there",
        """SELECT c.record FROM change c LEFT JOIN entry e ON e.scope_id = c.scope_id AND e.record = c.record
        WHERE c.what IN ('insert', 'revise', 'embedded') AND e.record IS NULL""",
    ),
    Rule(
        "disorder",
        "a change is numbered beyond its counter",
        "SELECT c.scope_id, c.seq FROM change c JOIN scope s ON s.id = c.scope_id WHERE c.seq > s.seq",
    ),
    Rule(
        "orphan",
        "a vector of nothing",
        """SELECT v.record, v.model FROM vector v LEFT JOIN entry e ON e.scope_id = v.scope_id AND e.record = v.record
        AND e.version = v.version WHERE e.record IS NULL""",
    ),
    Rule(
        "half",
        "an entry's vector is not there",
        """SELECT e.record, e.model FROM entry e LEFT JOIN vector v ON v.scope_id = e.scope_id AND v.record = e.record
        AND v.model = e.model AND v.version = e.version WHERE e.model IS NOT NULL AND v.record IS NULL""",
    ),
    Rule("half", "a vector of the wrong size", "SELECT record FROM vector WHERE length(data) != windows * dim * 4"),
)

_JOBS = (
    Rule(
        "stuck",
        "a job's end and its state disagree",
        "SELECT id, state FROM job WHERE (finished_at IS NULL) != (state IN ('queued', 'running'))",
    ),
    Rule(
        "stuck",
        "a stream's first job is not its head",
        """SELECT scope_id, stream FROM job WHERE stream IS NOT NULL AND finished_at IS NULL
        GROUP BY scope_id, stream HAVING sum(head) != 1 OR min(CASE WHEN head = 1 THEN id END) != min(id)""",
    ),
    Rule(
        "stuck",
        "a lane is not what its jobs make of it",
        """SELECT j.lane FROM job j LEFT JOIN lane l ON l.lane = j.lane WHERE j.finished_at IS NULL GROUP BY j.lane
        HAVING l.lane IS NULL OR l.busy != sum(j.state = 'running')
        OR l.ready_at IS NOT min(CASE WHEN j.state = 'queued' AND j.head = 1 THEN j.run_at END)""",
    ),
    Rule(
        "stuck",
        "a lane is busy with no job",
        """SELECT lane FROM lane l WHERE busy != 0 AND NOT EXISTS
        (SELECT 1 FROM job j WHERE j.lane = l.lane AND j.state = 'running')""",
    ),
    Rule(
        "disorder",
        "a chat's jobs ended out of order",
        """SELECT a.stream, a.id, b.id FROM job a JOIN job b ON a.scope_id = b.scope_id AND a.stream = b.stream
        AND a.id < b.id AND a.kind = 'remember' AND a.state = 'done' AND b.state = 'done'
        AND a.finished_at > b.finished_at
        JOIN decision d ON d.job_id = a.id AND d.last IS NOT NULL  -- one that was tried again may find nothing left
        WHERE NOT EXISTS (SELECT 1 FROM decision n WHERE n.author = 'none' AND n.job_id IN (a.id, b.id))""",
    ),
)

RULES = (*_RECORDS, *_DECISIONS, *_INDEX, *_JOBS)

AT_REST = (
    Rule(
        "stuck",
        "a job is left",
        "SELECT id, kind, state, head, attempt, run_at, lease_until, waiting, error FROM job WHERE finished_at IS NULL",
    ),
    Rule("stuck", "a job was given up", "SELECT id, kind, error FROM job WHERE state = 'dead'"),
    Rule("stuck", "a run is left", "SELECT id, kind FROM run WHERE state = 'running'"),
    Rule("stuck", "a receipt is not worked through", "SELECT reply_id FROM receipt WHERE worked = 0"),
    Rule("stuck", "turns are undecided", "SELECT scope_id, id FROM chat WHERE last_user >= decided"),
    Rule(
        "stuck",
        "a record is not embedded",
        """SELECT e.record FROM entry e JOIN scope s ON s.id = e.scope_id
        WHERE s.model IS NOT NULL AND e.model IS NOT s.model""",
    ),
)
