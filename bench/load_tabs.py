"""Many open tabs at one Gradio page, some of them active, as browsers would have them.

    python -m bench.load_tabs --url http://127.0.0.1:7860 --tabs 500 --active 200 --messages 2 --seconds 60

A tab holds Gradio's heartbeat and, where the page has them, the news of its user's changes; at each piece of news, and
when a reply has ended, it looks anew at what changed, one look at a time. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx

from bench.load_pace import Heartbeat, milliseconds
from bench.page_load import event_number, say, summary

REST, REST_MOST = 0.6, 2.0  # seconds after a look in which news leads to no other: as in the page's own script


class Tabs:
    """What all tabs have in common: the page, and what was counted."""

    def __init__(self, client: httpx.AsyncClient, ours: int | None, news: bool) -> None:
        self.client = client
        self.ours = ours  # the component that answers looks; None where the page has none
        self.news = news
        self.open = 0
        self.news_came = 0
        self.looks: list[float] = []
        self.failed: list[str] = []


class Tab:
    """One open tab of one user."""

    def __init__(self, number: int, tabs: Tabs) -> None:
        self.user = f"user{number}"
        self.session = uuid4().hex
        self.one_reply_at_a_time = asyncio.Lock()  # the page sends the next message when the reply has ended
        self._tabs = tabs
        self._have: dict[str, str] = {}
        self._transcript = ""
        self._live: str | None = None  # the message that was being answered when it last looked
        self._changed: set[str] = set()  # what the next look is for
        self._news = asyncio.Event()
        self._looking = asyncio.Lock()
        self._rested = 0.0  # when news may lead to the next look

    async def heartbeat(self) -> None:
        async with self._tabs.client.stream("GET", f"/gradio_api/heartbeat/{self.session}") as stream:
            stream.raise_for_status()
            self._tabs.open += 1
            async for _ in stream.aiter_raw():
                pass

    async def listen(self) -> None:
        async with self._tabs.client.stream("GET", "/events", params={"user_id": self.user}) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    self._tabs.news_came += 1
                    self._changed |= set(json.loads(line[6:])["what"])
                    self._news.set()

    async def look(self) -> None:
        """Look after each news, unless a look since has seen it; news during a look become one more."""
        while True:
            await self._news.wait()
            await asyncio.sleep(max(0.0, self._rested - time.perf_counter()))
            self._news.clear()
            if self._changed:
                await self.refresh()

    async def settled(self, turn_id: str) -> None:
        """The reply has ended: look at it, unless its news were quicker."""
        async with self._looking:
            shown = f'data-reply-to="{turn_id}"' in self._transcript
        if self._tabs.news and not shown:
            await self.refresh("turns", "jobs")

    async def refresh(self, *news: str) -> None:
        """A look at what changed, after the one that is under way."""
        self._changed |= set(news)
        async with self._looking:
            began = time.perf_counter()
            try:
                while self._changed:
                    await self._look()
            except httpx.HTTPError as error:
                self._tabs.failed.append(f"look: {error!r}")
            took = time.perf_counter() - began
            self._rested = began + took + min(REST_MOST, max(REST, 3 * took))

    async def _look(self) -> None:
        news = sorted(self._changed)
        self._changed.clear()
        asked = {"do": "look", "user": self.user, "chat": "bench", "lang": "en", "offset": 0, "tab": "episodic"}
        data = {**asked, "turns": 60, "memories": 100, "have": self._have, "news": news}
        body = {"data": data, "session_hash": self.session, "component_id": self._tabs.ours, "fn_name": "call"}
        began = time.perf_counter()
        answer = (await self._tabs.client.post("/gradio_api/component_server", json=body)).raise_for_status().json()
        self._tabs.looks.append(time.perf_counter() - began)
        if "parts" not in answer:
            self._tabs.failed.append(f"look: {json.dumps(answer)[:200]}")
            return
        self._have.update({name: part["tag"] for name, part in answer["parts"].items()})
        self._transcript = answer["parts"].get("transcript", {}).get("html", self._transcript)
        if answer["live"] != self._live and "turns" not in news:
            self._changed.add("turns")
        self._live = answer["live"]


async def _kept(work: Any, tabs: Tabs) -> None:
    """A stream ends with the tab; whatever else ends it is counted."""
    try:
        await work
    except httpx.HTTPError as error:
        tabs.failed.append(repr(error))


async def our_component(client: httpx.AsyncClient) -> int | None:
    config = (await client.get("/config")).raise_for_status().json()
    found = [each["id"] for each in config["components"] if each.get("props", {}).get("elem_id") == "aw-app"]
    return int(found[0]) if found else None


async def has_news(client: httpx.AsyncClient) -> bool:
    async with client.stream("GET", "/events", params={"user_id": "warm"}) as stream:
        kind: str = stream.headers.get("content-type", "")
        return kind.startswith("text/event-stream")


async def opened(tabs: Tabs, count: int, seconds: float) -> tuple[list[Tab], list[asyncio.Task[None]]]:
    """So many tabs, each holding what it holds, opened one by one within these seconds."""
    all_tabs = [Tab(number, tabs) for number in range(count)]
    tasks = []
    for tab in all_tabs:
        works = [tab.heartbeat(), *([tab.listen(), tab.look()] if tabs.news else [])]
        tasks += [asyncio.create_task(_kept(work, tabs)) for work in works]
        await asyncio.sleep(seconds / count)
    await asyncio.sleep(seconds / 5)  # for what the last ones ask
    return all_tabs, tasks


async def drive(arguments: argparse.Namespace) -> dict[str, Any]:
    chance, late = random.Random(arguments.seed), Heartbeat()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=400)
    async with httpx.AsyncClient(base_url=arguments.url, timeout=300, limits=limits) as client:
        event = await event_number(client)
        tabs = Tabs(client, await our_component(client), await has_news(client))
        all_tabs, tasks = await opened(tabs, arguments.tabs, arguments.opening)
        await client.get("/bench")  # its figures begin anew here
        beating = asyncio.create_task(late.beat())
        began = time.perf_counter()

        async def one(number: int, place: int, moment: float) -> tuple[float, float]:
            await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
            tab, text = all_tabs[number], f"In year {2000 + place} I bought boat {number}-{place}."
            async with tab.one_reply_at_a_time:
                said = await say(client, event, tab.user, text, [tab.session], turn_id := uuid4().hex)
                await tab.settled(turn_id)
                return said

        moments = [
            (number, place, chance.uniform(place, place + 1) * arguments.seconds / arguments.messages)
            for number in range(arguments.active)
            for place in range(arguments.messages)
        ]
        results = await asyncio.gather(*(one(*moment) for moment in moments), return_exceptions=True)
        page = (await client.get("/bench")).json()
        tabs_at_end = tabs.open - sum("Error" in failure for failure in tabs.failed)
        for task in (*tasks, beating):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    told = {"tabs_open": tabs_at_end, "client_lag_p99": round(late.take()["loop_lag_p99"], 4)}
    return {**_figures(results, tabs, page), **told}


def _figures(results: list[tuple[float, float] | BaseException], tabs: Tabs, page: dict[str, float]) -> dict[str, Any]:
    failed = [repr(result) for result in results if isinstance(result, BaseException)] + tabs.failed
    return {
        **summary([result for result in results if not isinstance(result, BaseException)]),
        "messages": len(results),
        "failed": len(failed),
        "first_failure": (failed or [""])[0],
        "news": tabs.news_came,
        "looks": len(tabs.looks),
        "look_ms": milliseconds(tabs.looks),
        "loop_lag_p99": round(page["loop_lag_p99"], 4),
        "loop_lag_max": round(page["loop_lag_max"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--tabs", type=int, required=True)
    parser.add_argument("--active", type=int, required=True)
    parser.add_argument("--messages", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60.0, help="in which the messages come, spread evenly")
    parser.add_argument("--opening", type=float, default=10.0, help="seconds in which the tabs open")
    parser.add_argument("--seed", type=int, default=1)
    print(json.dumps(asyncio.run(drive(parser.parse_args()))))


if __name__ == "__main__":
    main()
