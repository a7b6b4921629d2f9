"""Every exception that Afterword raises on purpose.

AfterwordError
├── InvalidInput          the caller's value is off; the message names the field and the fix
├── NotFound              no such memory, turn, chat or job in this scope
├── StillPending          a wait ran out of time; the work goes on (carries the ticket)
├── NotRemembered         the work on a turn was given up after its attempts, or cancelled
├── EpochChanged          the scope was reset or erased while the work was under way
├── VersionConflict       the record changed since it was read
├── LeaseLost             the job was taken from this worker (lease ran out, cancelled, scope reset)
├── QueueFull             a limit of waiting work was reached; nothing was dropped
├── BadAnswer             an LLM's answer can't be read as the decision that was asked for
├── Closed                the memory was closed, or is used from the wrong thread or process
├── SettingsError         a setting is missing or contradicts another; the message names the fix
├── LedgerError           the ledger can't be opened or written
│   ├── LedgerInUse       another server owns the data folder (carries its address)
│   └── LedgerDamaged     the database file is not readable as a ledger
└── Outage                something outside is away; waiting heals it, and no attempt is used up
    ├── LLMUnavailable
    ├── EmbedderUnavailable
    ├── RerankerUnavailable
    └── IndexUnavailable
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afterword.records import Ticket


class AfterwordError(Exception):
    """The root of the tree. `str()` is for the person whose call it was; `public` for logs, operators and other users.

    `said` is what somebody else's program answered: a server may repeat the prompt in it, so it is no part of `public`.
    """

    said: str = ""

    @property
    def public(self) -> str:
        """The error's text without what anybody said or sent."""
        text = str(self)
        for told in (f": {self.said}", f" ({self.said})", self.said) if self.said else ():
            text = text.replace(told, "…" if told == self.said else "")
        return text


class InvalidInput(AfterwordError, ValueError):
    """A value that was handed in can't be used. The message names the field and how to mend it."""

    @property
    def public(self) -> str:
        """Only what kind of error it is: the message may quote the value."""
        return "a value that was handed in can't be used"


class NotFound(AfterwordError, KeyError):
    """There is no such thing in this scope."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "not found"


class StillPending(AfterwordError, TimeoutError):
    """A wait ran out of time. Nothing is lost: the work goes on, and `ticket` can be awaited again."""

    def __init__(self, message: str, ticket: Ticket | None = None) -> None:
        super().__init__(message)
        self.ticket = ticket


class NotRemembered(AfterwordError):
    """The work on these turns was given up (dead-lettered or cancelled). The turns themselves are kept."""


class EpochChanged(AfterwordError):
    """The scope was reset or erased after this work began, so it must not write."""


class VersionConflict(AfterwordError):
    """A record is no longer at the version it was read at."""


class LeaseLost(AfterwordError):
    """The job no longer belongs to this worker."""


class QueueFull(AfterwordError):
    """A limit was reached. The message names it; nothing was dropped. `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: float = 30.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadAnswer(AfterwordError):
    """An LLM's answer is not the decision that was asked for, after repair and one more asking; or the model can't
    take the input at all (too long)."""

    def __init__(self, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class Closed(AfterwordError, RuntimeError):
    """The object was closed, or is used from a thread or process where it can't work."""


class SettingsError(AfterwordError, ValueError):
    """A setting is missing or wrong. The message names the setting and the fix."""


class LedgerError(AfterwordError):
    """The ledger can't be opened, read or written (no space, read-only, locked)."""

    def __init__(self, message: str, *, said: str = "") -> None:
        super().__init__(message)
        self.said = said


class LedgerInUse(LedgerError):
    """Another server owns this data folder; `address` is where it listens."""

    def __init__(self, message: str, address: str = "") -> None:
        super().__init__(message)
        self.address = address


class LedgerDamaged(LedgerError):
    """The database file is truncated or is no ledger."""


class Outage(AfterwordError):
    """Something outside is away (refused, timed out, 401, 429, 5xx). `retry_after` is in seconds, if it was named."""

    def __init__(self, message: str, *, fix: str = "", retry_after: float | None = None, said: str = "") -> None:
        super().__init__(message)
        self.fix = fix
        self.retry_after = retry_after
        self.said = said


class LLMUnavailable(Outage):
    """The LLM did not answer. `str()` is the cause, `fix` what a person can do."""


class EmbedderUnavailable(Outage):
    """The embedder did not answer."""


class RerankerUnavailable(Outage):
    """The reranker did not answer: what was found keeps its own order."""


class IndexUnavailable(Outage):
    """The vector index did not answer."""
