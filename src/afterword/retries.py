"""What to do about a failure: values, made here and carried out by the worker.

One place decides about trying again. The adapters never do (the client's own retries are off), a step asks an LLM once
more at most, and everything else is a job that goes back to its queue.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from afterword.errors import AfterwordError, BadAnswer, IndexUnavailable, LedgerError, LLMUnavailable, Outage

if TYPE_CHECKING:
    from afterword.records import Job

ATTEMPTS = 5
BACKOFF = (1.0, 300.0)  # seconds, doubled with each attempt
OUTAGE_BACKOFF = (1.0, 60.0)
LONGEST_WAIT = 3600.0  # seconds that a `Retry-After` is believed
BUDGET = 10.0  # attempts that answers which can't be used may cost without one that can
PER_ANSWER = 0.5  # of an attempt that an answer of use gives back
PER_HOUR = 6.0  # attempts that time gives back
LLM, EMBEDDER, LEDGER = "llm", "embedder", "ledger"  # what jobs hang on
INDEX = "index"  # no job does, but its trouble is told


class Monotonic(Protocol):
    """The part of a clock that is needed here."""

    def monotonic(self) -> float: ...


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
        return Verdict(outage_delay(error, outages), waiting=text, count_attempt=False)
    if isinstance(error, TimeoutError):
        text = "the step did not end within its time"
    if job.attempt >= ATTEMPTS:
        return Verdict(None, error=text)
    return Verdict(backoff(job.attempt, BACKOFF), error=text)


def backoff(attempt: int, bounds: tuple[float, float]) -> float:
    """Exponential back-off with "equal jitter": at least half of the doubled delay, so that retries spread."""
    doubled = min(bounds[1], bounds[0] * 2.0 ** min(30, max(0, attempt - 1)))
    return doubled * random.uniform(0.5, 1.0)


def outage_delay(error: BaseException, outages: int) -> float:
    """Seconds until what is away is asked again: what it named, at most an hour, else longer with each time."""
    named = getattr(error, "retry_after", None)
    if named is not None and named > 0:  # not for a NaN
        return float(min(named, LONGEST_WAIT))
    return backoff(outages, OUTAGE_BACKOFF)


class Breaker:
    """Keeps what is away from being asked by every job: open for a while after an outage, then one job tries."""

    def __init__(self) -> None:
        self.failures = 0
        self.trouble: AfterwordError | None = None
        self._open_until = 0.0

    def failed(self, error: AfterwordError, now: float) -> float:
        """Open it; the seconds it stays so. What was under way when it opened fails too, and tells nothing new."""
        if self.trouble is None or now >= self._open_until:
            self.failures += 1
            self._open_until = now + outage_delay(error, self.failures)
        elif getattr(error, "retry_after", None):
            self._open_until = max(self._open_until, now + outage_delay(error, self.failures))
        self.trouble = error
        return self._open_until - now

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


class Budget:
    """How many attempts may be lost to answers that can't be used.

    One input that always fails is given up after its attempts. When nothing that an LLM says can be used, it is the LLM
    that fails, and to ask it five times about everything would cost much and give up what it could do tomorrow. Source:
    gRPC's retry throttling (proposal A6): a failure takes a token, a success gives a part of one back.
    """

    def __init__(self) -> None:
        self._left = BUDGET
        self._at: float | None = None

    def spend(self, now: float) -> bool:
        """Take one attempt; False when there is none left."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(BUDGET, self._left + passed / 3600.0 * PER_HOUR)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def earn(self) -> None:
        self._left = min(BUDGET, self._left + PER_ANSWER)


class NoUse(LLMUnavailable):
    """The LLM answers, but nothing that can be used, whatever it is asked."""


class Breakers:
    """The breakers of one worker. `needs` says what a kind of job hangs on; all of them hang on the ledger."""

    def __init__(self, needs: Mapping[str, str]) -> None:
        self._needs = dict(needs)
        self._by_name = {name: Breaker() for name in (LEDGER, INDEX, *sorted(set(needs.values())))}
        self._budget = Budget()

    def __getitem__(self, name: str) -> Breaker:
        return self._by_name[name]

    @property
    def outages(self) -> list[AfterwordError]:
        """What is away now."""
        return [breaker.trouble for breaker in self._by_name.values() if breaker.trouble is not None]

    @property
    def trouble(self) -> tuple[str, ...]:
        """What is away now, each with its fix, for all users: without what a server said about one user's words."""
        return tuple(told(error) for error in self.outages)

    def room(self, now: float, free: int, running: Collection[str]) -> int:
        """How many jobs of whatever kind may be claimed."""
        ledger = self._by_name[LEDGER]
        return 0 if ledger.trouble is not None and running else ledger.room(now, free)

    def groups(self, kinds: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
        """Kinds that are claimed together, by what they hang on; all in one look while nothing is wrong."""
        kinds = sorted(kinds)
        if all(breaker.trouble is None for breaker in self._by_name.values()):
            yield "", kinds
            return
        for name in ("", *self._by_name):
            group = [kind for kind in kinds if self._needs.get(kind, "") == name]
            if group:
                yield name, group

    def room_of(self, name: str, now: float, free: int, running: Collection[str]) -> int:
        """How many jobs of a group may be claimed: while something is away, one at a time tries it."""
        breaker = self._by_name.get(name)
        if breaker is None or breaker.trouble is None:
            return free
        return 0 if any(self._needs.get(kind) == name for kind in running) else breaker.room(now, free)

    def wait(self, name: str, now: float) -> float:
        """Seconds until a group's next try."""
        waits = [self._by_name[one].wait(now) for one in (LEDGER, name) if one in self._by_name]
        return max((wait for wait in waits if wait is not None), default=0.0)

    def succeeded(self, kind: str, *, answered: bool) -> None:
        """A job's plan was applied. `answered`: what it hangs on was asked, and did its part."""
        self._by_name[LEDGER].succeeded()
        need = self._needs.get(kind)
        if need is not None and answered:
            self._by_name[need].succeeded()
            self._budget.earn()

    def failed(self, job: Job, error: Exception, now: float) -> Verdict:
        """What becomes of the job. Opens the breaker of what is away."""
        need = LEDGER if isinstance(error, LedgerError) else self._needs.get(job.kind)
        breaker = self._by_name.get(need) if need is not None else None
        error = self._of_the_llm(error, need, now)
        decided = verdict(error, job, 1)
        if breaker is not None and isinstance(error, Outage | LedgerError):
            return replace(decided, delay=breaker.failed(error, now))
        if breaker is not None and isinstance(error, BadAnswer) and not isinstance(breaker.trouble, NoUse):
            breaker.succeeded()  # it answers
        return decided

    @contextmanager
    def watching_the_index(self, clock: Monotonic) -> Iterator[None]:
        """An outside index that can't be written is told as trouble until it can."""
        try:
            yield
        except IndexUnavailable as error:
            self._by_name[INDEX].failed(error, clock.monotonic())
            raise
        self._by_name[INDEX].succeeded()

    def _of_the_llm(self, error: Exception, need: str | None, now: float) -> Exception:
        """The LLM's failure instead of the input's, once too much of what it said could not be used."""
        if need != LLM or not isinstance(error, BadAnswer | TimeoutError) or self._budget.spend(now):
            return error
        said = str(error) or "no answer in time"
        return NoUse(
            f"nothing that the LLM answers can be used ({said})",
            fix="set AFTERWORD_LLM_MODEL (or AFTERWORD_DECIDER_MODEL) to another model; it is asked again by itself",
            said=getattr(error, "said", ""),
        )


def told(error: AfterwordError) -> str:
    """The cause and the fix in one line, for everybody."""
    fix = getattr(error, "fix", "")
    return f"{error.public}: {fix}" if fix else error.public


def described() -> str:
    """How often, how soon and how long it is tried again, for a person."""
    failed = f"an input that fails: {ATTEMPTS} attempts, {BACKOFF[0]:g} to {BACKOFF[1]:g} s apart"
    away = f"an outage: one job tries, {OUTAGE_BACKOFF[0]:g} to {OUTAGE_BACKOFF[1]:g} s apart, or as long as"
    budget = f"after {BUDGET:g} attempts lost to answers of no use the LLM counts as away"
    return f"{failed}; {away} Retry-After says, at most {LONGEST_WAIT:g} s, and no attempt is used up; {budget}"
