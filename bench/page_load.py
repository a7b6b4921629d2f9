"""Many people at one Gradio page, through the page's own protocol: join the queue, listen to the event stream.

    python -m bench.page_load --url http://127.0.0.1:7860 --users 20 --messages 3 --seconds 10 --seed 1

Prints one JSON object: seconds to the first piece of each reply that the page sends, and to its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from typing import Any
from uuid import uuid4

import httpx


async def event_number(client: httpx.AsyncClient) -> int:
    """Which of the page's events takes messages (the one with the API name `ask`)."""
    config = (await client.get("/config")).raise_for_status().json()
    for place, dependency in enumerate(config["dependencies"]):
        if dependency.get("api_name") == "ask":
            return int(dependency.get("id", place))
    raise SystemExit("the page has no event named `ask`")


async def say(
    client: httpx.AsyncClient, event: int, user: str, text: str, free: list[str], turn_id: str = ""
) -> tuple[float, float]:
    """Send one message as the page does; seconds to the first piece and to the end.

    `free` are the sessions (open tabs) of this user that wait for no reply: one is used again, as a tab is.
    """
    session = free.pop() if free else uuid4().hex
    try:
        return await _say(client, event, user, text, session, turn_id or uuid4().hex)
    finally:
        free.append(session)


async def _say(
    client: httpx.AsyncClient, event: int, user: str, text: str, session: str, turn_id: str
) -> tuple[float, float]:
    asked = {"user": user, "chat": "bench", "text": text, "id": turn_id, "offset": 0, "language": "en"}
    began = time.perf_counter()
    body = {"data": [asked], "fn_index": event, "session_hash": session, "event_data": None, "trigger_id": None}
    (await client.post("/gradio_api/queue/join", json=body)).raise_for_status()
    first = 0.0
    async with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data:"):
                continue
            message = json.loads(line[5:])
            if not first and message["msg"] == "process_generating" and _says_something(message["output"]["data"]):
                first = time.perf_counter() - began
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise RuntimeError(f"the page failed: {line[:500]}")
                return first or time.perf_counter() - began, time.perf_counter() - began
    raise RuntimeError("the event stream ended early")


def _says_something(data: list[Any]) -> bool:
    """Whether an update holds words: a whole value, or (Gradio sends differences) an operation that adds some."""
    return any(isinstance(value, list) or (isinstance(value, str) and value.strip()) for value in data if value)


async def drive(arguments: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(arguments.seed)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=300, limits=limits) as client:
        event = await event_number(client)
        began = time.perf_counter()
        tabs: dict[int, list[str]] = {user: [] for user in range(arguments.users)}

        async def one(user: int, number: int, moment: float) -> tuple[float, float]:
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            text = f"In year {2000 + number} I bought boat {user}-{number}."
            return await say(client, event, f"user{user}", text, tabs[user])

        moments = [
            (user, number, chance.uniform(0, arguments.seconds))
            for user in range(arguments.users)
            for number in range(arguments.messages)
        ]
        results = await asyncio.gather(*(one(*moment) for moment in moments), return_exceptions=True)
    times = [result for result in results if not isinstance(result, BaseException)]
    failed = [repr(result) for result in results if isinstance(result, BaseException)]
    return {**summary(times), "messages": len(results), "failed": len(failed), "first_failure": (failed or [""])[0]}


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    if not times:
        return {}
    firsts, ends = sorted(first for first, _ in times), sorted(end for _, end in times)
    return {
        "ttft_p50": round(statistics.median(firsts), 4),
        "ttft_p95": round(firsts[min(len(firsts) - 1, int(len(firsts) * 0.95))], 4),
        "reply_p50": round(statistics.median(ends), 4),
        "reply_p95": round(ends[min(len(ends) - 1, int(len(ends) * 0.95))], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--users", type=int, required=True)
    parser.add_argument("--messages", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="messages come spread evenly over these; 0: at once"
    )
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(drive(parser.parse_args()))))


if __name__ == "__main__":
    main()
