"""The operators' pages name all that there is."""

from __future__ import annotations

from afterword.meter import Meter
from afterword.settings import Settings
from docs.code.embed import ROOT


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_metric_is_told_in_the_operators_page() -> None:
    told = read("docs/operations.md")
    meter = Meter()
    names = [f"`{counter.name}_total`" for counter in meter.counters()]
    names += [f"`{histogram.name}`" for histogram in meter.histograms()]
    assert len(names) > 10
    assert [name for name in names if name not in told] == []


def test_every_limit_is_told_with_its_default() -> None:
    told = read("docs/reliability.md")
    for name, field in Settings.model_fields.items():
        if name.startswith("max_"):
            row = next(line for line in told.splitlines() if f"`AFTERWORD_{name.upper()}`" in line)
            assert f"`AFTERWORD_{name.upper()}`" in row
            assert f"{field.default:,.0f}" in row, name
