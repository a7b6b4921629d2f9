"""What to do about a failure: a value, made here and carried out by the worker."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afterword.errors import LedgerError, Outage

if TYPE_CHECKING:
    from afterword.records import Job

ATTEMPTS = 5
BACKOFF = (1.0, 300.0)  # seconds, doubled with each attempt
OUTAGE_BACKOFF = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a job that did not end well. `delay` None: it is dead-lettered."""

    delay: float | None
    error: str = ""
    waiting: str = ""
    count_attempt: bool = True


def verdict(error: BaseException, job: Job, outages: int) -> Verdict:
    """An outage waits and costs no attempt; anything else is tried again, later each time, at most 5 times."""
    text = str(error) or type(error).__name__
    if isinstance(error, Outage | LedgerError):
        retry_after = error.retry_after if isinstance(error, Outage) else None
        delay = retry_after or backoff(outages, OUTAGE_BACKOFF)
        return Verdict(delay, waiting=text, count_attempt=False)
    if isinstance(error, TimeoutError):
        text = "the step did not end within its time"
    if job.attempt >= ATTEMPTS:
        return Verdict(None, error=text)
    return Verdict(backoff(job.attempt, BACKOFF), error=text)


def backoff(attempt: int, bounds: tuple[float, float]) -> float:
    """Exponential back-off with "equal jitter": at least half of the doubled delay, so that retries spread."""
    doubled = min(bounds[1], bounds[0] * 2.0 ** max(0, attempt - 1))
    return doubled * random.uniform(0.5, 1.0)


class Breaker:
    """Keeps what is away from being asked by every job: open for a while after an outage, then one job tries."""

    def __init__(self) -> None:
        self.failures = 0
        self.trouble: Outage | None = None
        self._open_until = 0.0

    def failed(self, error: Outage, now: float) -> float:
        """Open it; the seconds it stays so."""
        self.failures += 1
        delay = error.retry_after or backoff(self.failures, OUTAGE_BACKOFF)
        self.trouble = error
        self._open_until = now + delay
        return delay

    def succeeded(self) -> None:
        self.failures, self.trouble, self._open_until = 0, None, 0.0

    def room(self, now: float, free: int) -> int:
        """How many jobs may be claimed: all, none while open, one to try."""
        if self.trouble is None:
            return free
        return min(1, free) if now >= self._open_until else 0

    def wait(self, now: float) -> float | None:
        """Seconds until the next try; None when nothing is wrong."""
        return None if self.trouble is None else max(0.0, self._open_until - now)
