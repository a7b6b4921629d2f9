"""The soak in its short form."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from bench.soak import Pace, Record, Sample, soak, told

pytestmark = pytest.mark.anyio

QUICK = Pace(check=2.0, pause=(0.0, 0.1), life=(1.0, 2.5), fault=(0.2, 0.5), calm=(0.1, 0.4), sample=0.5, searches=30)


async def test_a_short_soak_with_faults_and_kills_keeps_everything(tmp_path: Path) -> None:
    minutes = 0.15
    with anyio.fail_after(240):
        soaked = await soak(minutes, seed=5, log=tmp_path / "log", pace=QUICK)
    assert not soaked.record.findings.found, "\n".join(soaked.record.findings.shown())
    assert not soaked.told.surprises
    said = told(soaked, minutes)
    assert said["kills"] + said["stops"] >= 2
    assert said["checks"] >= 2
    assert min(said["faults"], said["acknowledged_turns"], said["searches"], said["memory_mb_most"]) > 0


def test_growth_is_that_of_the_longest_life_once_it_is_warm() -> None:
    def life(seconds: int, megabytes: int) -> list[Sample]:
        return [Sample(float(age), (megabytes + age) * 2**20, 20) for age in range(0, seconds, 5)]

    growth = Record(lives=[life(60, 500), life(605, 100)]).growth()
    assert growth["longest_life_seconds"] == 600
    assert (growth["memory_mb_first"], growth["memory_mb_last"], growth["memory_mb_most"]) == (155.0, 675.0, 700.0)
