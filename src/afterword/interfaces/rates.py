"""How often one caller may ask: a token bucket for each address. Memory is bounded; the longest unseen is forgotten."""

from __future__ import annotations

import time
from collections import OrderedDict

CALLERS = 10_000


class Rates:
    """`per_minute` requests for each caller, as many of them at once; 0: any number."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller → (requests left, when)

    def wait(self, caller: str) -> float:
        """Take one request; 0 when it may be served now, else the seconds until it may."""
        if not self._per_minute:
            return 0.0
        now = time.monotonic()
        left, at = self._left.pop(caller, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - at) * self._per_minute / 60)
        served = left >= 1
        self._left[caller] = (left - served, now)
        if len(self._left) > CALLERS:
            self._left.popitem(last=False)
        return 0.0 if served else (1 - left) * 60 / self._per_minute
