"""Time to first token of one chat in three designs, beside the floor that only streams the LLM.

    scripts/bench reply --users 1,20,100,200 --embedder hashing|local [--llm-seconds 2]

Each design is a Gradio page in a process of its own, driven by `bench.page_load` in another, all on one fake LLM in a
third. The last line is one JSON object; times in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DESIGNS = ("floor", "blocking", "threads", "afterword")
MESSAGES = 3
SPREAD = 10.0
BACKGROUND_LIMIT = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    running = subprocess.Popen([sys.executable, "-m", *arguments], text=True, **options)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


@contextlib.contextmanager
def fake_llm(seconds: float) -> Iterator[str]:
    delays = ("--first-delay", str(seconds), "--gap", "0.02", "--complete-delay", str(seconds / 2))
    with process("afterword.testing.fake_openai", *delays, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        yield running.stdout.readline().strip()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/bench", timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@contextlib.contextmanager
def page(design: str, llm_url: str, embedder: str, folder: Path, *more: str) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = (design, "--port", str(port), "--llm-url", llm_url, "--embedder", embedder, "--folder", str(folder))
    with process("bench.reply_pages", *arguments, *more) as running:
        deadline = time.monotonic() + 60
        while True:
            try:
                stats(url)
                break
            except OSError:
                if running.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the page `{design}` did not start") from None
                time.sleep(0.2)
        yield url


def load(url: str, users: int, seconds: float, seed: int) -> dict[str, Any]:
    arguments = ["--url", url, "--users", str(users), "--seconds", str(seconds), "--seed", str(seed)]
    arguments += ["--messages", str(MESSAGES if seconds else 1)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.page_load", *arguments], capture_output=True, text=True, check=True
    )
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def measure(design: str, users: int, burst: bool, options: argparse.Namespace, llm_url: str) -> dict[str, Any]:
    """One design under one load, in a fresh process with an empty memory."""
    with tempfile.TemporaryDirectory() as folder, page(design, llm_url, options.embedder, Path(folder)) as url:
        load(url, 1, 0, seed=0)  # warm-up: first use of every path
        time.sleep(1)
        before = stats(url)["finished"]
        measured = load(url, users, 0 if burst else SPREAD, options.seed)
        during = stats(url)
        wanted = measured["messages"] if design in ("blocking", "threads") else 0
        began = time.monotonic()
        after = stats(url)
        while time.monotonic() - began < BACKGROUND_LIMIT:
            after = stats(url)
            if after["finished"] - before >= wanted and not after["waiting"]:
                break
            time.sleep(0.5)
        return {
            **measured,
            "loop_lag_p99": round(during["loop_lag_p99"], 4),
            "loop_lag_max": round(during["loop_lag_max"], 4),
            "background_finished": after["finished"] - before,
            "background_seconds": round(time.monotonic() - began, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default="1,20,100,200", help="comma-separated, rising")
    parser.add_argument("--embedder", choices=["hashing", "local"], default="hashing")
    parser.add_argument("--llm-seconds", type=float, default=2.0)
    parser.add_argument("--designs", default=",".join(DESIGNS))
    parser.add_argument("--no-burst", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts = [int(part) for part in options.users.split(",")]
    plans = [(users, False) for users in counts] + ([] if options.no_burst else [(users, True) for users in counts])
    loads = []
    with fake_llm(options.llm_seconds) as llm_url:
        for users, burst in plans:
            row: dict[str, Any] = {"users": users, "burst": burst}
            for design in options.designs.split(","):
                row[design] = measure(design, users, burst, options, llm_url)
                figures = json.dumps(row[design])
                print(f"{users:>4} users{' at once' if burst else '':<8} {design:<10} {figures}", flush=True)
            loads.append(row)
    print(json.dumps({"llm_seconds": options.llm_seconds, "embedder": options.embedder, "loads": loads}))


if __name__ == "__main__":
    main()
