"""`/metrics`: this process's numbers, and the queue's, as Prometheus reads them.

The numbers are `meter.Meter`'s; prometheus-client writes them down. What is read from the ledger is the same truth that
`afterword jobs` and the page show, over all users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from afterword.errors import AfterwordError
from afterword.records import JobState

if TYPE_CHECKING:
    from afterword.interfaces.health import LoopLag
    from afterword.memory import AsyncMemory
    from afterword.meter import Histogram, Meter
    from afterword.ports import Queue

PREFIX = "afterword_"
STATES: tuple[JobState, ...] = ("queued", "running", "dead")
READ_DEADLINE = 3.0  # seconds
PARTS = ("llm", "decider", "embedder", "ledger")


async def metrics(request: Request) -> Response:
    """The route. Answers while the memory opens or closes too: without what only the memory knows."""
    memory: AsyncMemory | None = request.app.state.holder.peek()
    lag: LoopLag = request.app.state.loop_lag
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    if memory is not None:
        registry.register(_Collected([*_own(memory, lag), *await _queue(memory)]))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class _Collected(Collector):
    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterable[Metric]:
        return self._found


async def _queue(memory: AsyncMemory) -> list[Metric]:
    """The queue in figures; nothing while the ledger can't be read: a scrape must not fail when it is needed most."""
    try:
        async with asyncio.timeout(READ_DEADLINE):
            queue = await memory.ledger.queue()
    except (AfterwordError, TimeoutError):
        return []
    return list(_of_queue(queue, datetime.now(UTC)))


def _own(memory: AsyncMemory, lag: LoopLag) -> Iterator[Metric]:
    yield from _counted(memory.watch.meter)
    yield GaugeMetricFamily(f"{PREFIX}event_loop_lag_max_seconds", "The latest waking of the last minute.", lag.worst)
    away = GaugeMetricFamily(f"{PREFIX}part_up", "Whether a part's last call went well.", labels=["part"])
    for part in PARTS:
        away.add_metric([part], 0.0 if part in memory.watch.away else 1.0)
    yield away


def _counted(meter: Meter) -> Iterator[Metric]:
    for counter in meter.counters():
        counted = CounterMetricFamily(PREFIX + counter.name, counter.help, labels=counter.labels)
        for labels, value in counter.values.items():
            counted.add_metric(labels, value)
        yield counted
    for histogram in meter.histograms():
        yield _histogram(histogram)


def _histogram(histogram: Histogram) -> Metric:
    made = HistogramMetricFamily(PREFIX + histogram.name, histogram.help, labels=histogram.labels)
    for labels, row in histogram.rows.items():
        seen, buckets = 0, []
        for bound, number in zip((*map(str, histogram.bounds), "+Inf"), row.buckets, strict=True):
            seen += number
            buckets.append((bound, float(seen)))
        made.add_metric(labels, buckets, row.sum)
    return made


def _of_queue(queue: Queue, now: datetime) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(f"{PREFIX}jobs", "Unfinished and dead jobs of all users.", labels=["kind", "state"])
    for (kind, state), number in sorted(queue.jobs.items()):
        jobs.add_metric([kind, state], number)
    yield jobs
    depth = GaugeMetricFamily(f"{PREFIX}queue_depth", "Jobs of all kinds, by state.", labels=["state"])
    for state in get_args(JobState):
        if state in STATES:
            depth.add_metric([state], queue.count(state))
    yield depth
    for name, told, since in (
        ("oldest_job_age", "Since the longest waiting job was put.", queue.oldest),
        ("oldest_due_job_age", "Since the longest due job fell due; 0: nothing is due.", queue.due),
    ):
        age = (now - since).total_seconds() if since is not None else 0.0
        yield GaugeMetricFamily(f"{PREFIX}{name}_seconds", told, max(0.0, age))
    yield GaugeMetricFamily(f"{PREFIX}waiting_turns", "Turns of all users that are not decided yet.", queue.turns)
