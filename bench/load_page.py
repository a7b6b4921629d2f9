"""Many chats open at the page, and the same at a page without memory: time to first token, and the loop's lag."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.reply import fake_llm, load, page, stats

DESIGNS = ("floor", "product")
DRAIN = 120.0  # seconds


@dataclass(frozen=True)
class Crowd:
    """How many tabs, and what the active ones do. Times in seconds."""

    tabs: int = 500
    active: int = 200
    messages: int = 2
    seconds: float = 60.0
    llm_seconds: float = 2.0
    embed_seconds: float = 0.02


def measured(design: str, crowd: Crowd, llm_url: str, embedder: str, seed: int) -> dict[str, Any]:
    """One page, fresh and warm, under this crowd; afterwards its queue is left to drain."""
    more = ("--embed-seconds", str(crowd.embed_seconds))
    with tempfile.TemporaryDirectory() as folder, page(design, llm_url, embedder, Path(folder), *more) as url:
        load(url, 1, 0, seed=0)  # the first use of every path
        time.sleep(1)
        wanted = {"tabs": crowd.tabs, "active": crowd.active, "messages": crowd.messages, "seconds": crowd.seconds}
        options = [f"--{name}={value}" for name, value in {"url": url, **wanted, "seed": seed}.items()]
        command = [sys.executable, "-m", "bench.load_tabs", *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        began, after = time.monotonic(), stats(url)
        row["queue_at_end"] = after["waiting"]
        while after["waiting"] and time.monotonic() - began < DRAIN:
            time.sleep(0.25)
            after = stats(url)
        return {**row, "drain_seconds": round(time.monotonic() - began, 1), "queue_left": after["waiting"]}


def compared(crowd: Crowd, embedder: str, seed: int) -> dict[str, Any]:
    """Each page under the very same crowd, on one fake LLM."""
    with fake_llm(crowd.llm_seconds) as llm_url:
        return {design: measured(design, crowd, llm_url, embedder, seed) for design in DESIGNS}
