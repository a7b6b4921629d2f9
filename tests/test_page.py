"""The page without a browser: what it renders, what it lets through, and how it streams."""

from __future__ import annotations

import asyncio
import re
import string
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from afterword.interfaces import page as page_package
from afterword.interfaces.page.asked import Asked
from afterword.interfaces.page.handlers import PACE, UPDATES, Pacer, Page
from afterword.interfaces.page.markup import dated_tag, esc, markdown, when
from afterword.interfaces.page.render_chat import Shown, WhySummary, chats_html, transcript_html, why_html
from afterword.interfaces.page.render_memory import details_html, memories_html, tabs_html
from afterword.interfaces.page.render_work import banner_html, runs_html, strip_html
from afterword.interfaces.page.strings import EN, ZH
from afterword.memory import AsyncMemory
from afterword.records import (
    Chat,
    Hit,
    Job,
    MemoryRecord,
    Receipt,
    ReceiptItem,
    Ref,
    Run,
    Scope,
    Turn,
)
from afterword.reply import Reply
from afterword.settings import Settings
from tests.serving import client_of

NOW = datetime(2026, 5, 20, 12, 0, tzinfo=UTC)
EVIL = "<img src=x onerror=\"alert('x')\"><script>alert(1)</script>\"'&"
FOLDER = Path(page_package.__file__).parent
MEMORY = MemoryRecord("m1", 2, "episodic", EVIL, NOW, 0, NOW, "rules", ("t1",), EVIL, why=EVIL)
TURN = Turn("t1", "c1", 0, "user", EVIL, NOW, 0, NOW, speaker=EVIL, asked=True)
REPLY = Turn("r1", "c1", 1, "assistant", "**Yes**", NOW, 0, NOW, reply_to="t1")
HIT = Hit(Ref("m1", 2), "episodic", EVIL, 0.8, {EVIL: 0.5}, NOW, 0, EVIL, sources=("t1",))


def job(state: Any, number: int = 1, **more: Any) -> Job:
    scope = Scope("default", "me")
    return Job(number, scope, 0, more.pop("kind", "remember"), "l", None, None, {}, state, 1, 1, NOW, NOW, **more)


class Reader(HTMLParser):
    """What a browser would make of some HTML: its tags and the names of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags(html: str) -> set[str]:
    return Reader(html).tags


def rendered_evil() -> list[str]:
    asked = Asked(user=EVIL, chat="c1")
    cut = Turn("r1", "c1", 1, "assistant", "x", NOW, 0, NOW, reply_to=EVIL, cut=EVIL, metadata={"fix": EVIL})
    receipt = Receipt((ReceiptItem(HIT.ref, "episodic", 0.8, {}),), EVIL, 3.0)
    return [
        transcript_html([TURN, cut], {"r1": Shown(markdown(EVIL), WhySummary(1, True))}, asked, None),
        chats_html([Chat(EVIL, EVIL, 2, NOW)], asked, EVIL),
        why_html(receipt, [HIT], asked),
        memories_html([MEMORY], asked, NOW, 60),
        details_html([MEMORY, MEMORY], [TURN], [MEMORY], asked),
        strip_html([job("dead", error=EVIL), job("queued", 2, kind=EVIL, waiting=EVIL)], {"dead": 1}, asked, NOW),
        runs_html([Run("r", "consolidate", "running", 1, 3, EVIL, NOW)], asked),
        runs_html([Run("r", "consolidate", "failed", 1, 3, EVIL, NOW, NOW)], asked),
        banner_html("m", 2, (EVIL,), asked),
    ]


@pytest.mark.parametrize("html", rendered_evil(), ids=lambda html: str(len(html)))
def test_hostile_text_stays_text_wherever_it_is_shown(html: str) -> None:
    assert "&lt;" in html
    assert not tags(html) & {"img", "script"}
    assert not [
        name for name in Reader(html).attributes if name.startswith("on") or not name.replace("-", "").isalpha()
    ]


@given(st.text())
def test_escaped_text_can_open_no_tag_and_end_no_attribute(text: str) -> None:
    assert not set(esc(text)) & set("<>\"'")


def test_a_reply_shows_no_pictures_no_raw_html_and_no_script_links() -> None:
    html = markdown("![p](http://elsewhere.example/p.png) <b>x</b> [y](javascript:alert(1)) [z](https://a.example)")
    assert not tags(html) & {"img", "b"}
    assert re.findall(r'href="(\w+):', html) == ["http", "https"]
    assert html.count('rel="noopener noreferrer nofollow"') == 2


def test_a_reply_shows_lists_tables_and_code() -> None:
    html = markdown("- a\n- b\n\n| x | y |\n|---|---|\n| 1 | `2` |")
    assert {"ul", "li", "table", "td", "code"} <= tags(html)


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def fields(text: str) -> set[str | None]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_words_with_the_same_places() -> None:
    assert EN.keys() == ZH.keys()
    assert {name: fields(text) for name, text in EN.items()} == {name: fields(text) for name, text in ZH.items()}


def test_every_word_that_the_browser_asks_for_is_there() -> None:
    asked = set()
    for file in FOLDER.iterdir():
        if file.suffix in (".js", ".html"):
            text = file.read_text("utf-8")
            asked |= set(re.findall(r'data-(?:t|title|placeholder)="(\w+)"', text))
            asked |= set(re.findall(r'\bt\("(\w+)"\)', text))
    assert len(asked) > 20
    assert asked <= EN.keys()


@pytest.mark.parametrize("state", ["queued", "running", "dead"])
@pytest.mark.parametrize(
    "kind", ["remember", "reconsolidate", "consolidate", "forget", "embed", "project", "reembed", "backfill"]
)
def test_every_kind_of_work_has_a_name_in_both_languages(kind: str, state: str) -> None:
    for lang, words in (("en", EN), ("zh", ZH)):
        html = strip_html([job(state, kind=kind)], {}, Asked(lang=lang), NOW)
        assert words[f"job_{kind}"] in html
        assert words[f"state_{state}"] in html


# ── dates ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("moment", "offset", "lang", "shown"),
    [
        (NOW, 0, "en", "12:00"),
        (NOW, 480, "zh", "20:00"),
        (NOW - timedelta(days=1), 0, "en", "yesterday 12:00"),
        (NOW - timedelta(hours=13), 0, "zh", "昨天 23:00"),
        (NOW - timedelta(hours=13), 120, "en", "01:00"),
        (NOW - timedelta(days=3), 0, "en", "17 May 12:00"),
        (NOW - timedelta(days=40), 0, "zh", "4月10日"),
        (NOW - timedelta(days=400), 0, "en", "15 Apr 2025"),
        (NOW - timedelta(days=400), 0, "zh", "2025年4月15日"),
    ],
)
def test_dates_are_short_and_in_the_readers_time_zone(moment: datetime, offset: int, lang: str, shown: str) -> None:
    assert when(moment, offset, lang, NOW) == shown


def test_a_memorys_date_names_the_day_however_recent() -> None:
    assert "2025-05-03 04:30" in dated_tag(datetime(2025, 5, 2, 20, 30, tzinfo=UTC), 480, "en")
    assert "3 May 2025 04:30" in dated_tag(datetime(2025, 5, 2, 20, 30, tzinfo=UTC), 480, "en")


# ── what is shown ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_message_without_a_reply_offers_to_ask_again_unless_it_is_being_answered() -> None:
    asked = Asked()
    assert 'data-do="ask-again"' in transcript_html([TURN], {}, asked, None)
    assert 'data-do="ask-again"' not in transcript_html([TURN], {}, asked, "t1")
    assert 'data-do="ask-again"' not in transcript_html([TURN, REPLY], {"r1": Shown("x", None)}, asked, None)


def test_a_turn_that_nobody_asked_about_is_not_called_unanswered() -> None:
    told = Turn("t2", "c1", 0, "user", "I told you", NOW, 0, NOW)
    assert "ask-again" not in transcript_html([told], {}, Asked(), None)


@pytest.mark.parametrize(
    ("cut", "says"), [("stopped", "Stopped."), ("shutdown", "shut down"), ("no route to it", "no route to it")]
)
def test_a_cut_reply_says_why_what_mends_it_and_offers_to_ask_again(cut: str, says: str) -> None:
    reply = Turn("r1", "c1", 1, "assistant", "half", NOW, 0, NOW, reply_to="t1", cut=cut, metadata={"fix": "Start it."})
    html = transcript_html([TURN, reply], {"r1": Shown("<p>half</p>", None)}, Asked(), None)
    assert says in html
    assert "Start it." in html
    assert 'data-do="ask-again" data-id="t1"' in html


def test_a_cut_reply_makes_room_while_its_message_is_asked_again() -> None:
    reply = Turn("r1", "c1", 1, "assistant", "half", NOW, 0, NOW, reply_to="t1", cut="stopped")
    assert "half" not in transcript_html([TURN, reply], {"r1": Shown("half", None)}, Asked(), "t1")


def test_why_shows_scores_parts_sources_what_was_missed_and_what_is_gone() -> None:
    items = (ReceiptItem(HIT.ref, "episodic", 0.8, {}), ReceiptItem(Ref("m2", 1), "episodic", 0.1, {}))
    hit = Hit(Ref("m1", 2), "episodic", "Ann", 0.83, {"words": 0.51, "when": 0.0}, NOW, 0, "c7", sources=("t9",))
    html = why_html(Receipt(items, "recall took too long", 12.4), [hit], Asked())
    for shown in ("0.83", "words 0.51", "version 2", 'data-chat="c7" data-id="t9"', "recall took too long", "12 ms"):
        assert shown in html
    assert "1 of the memories" in html
    assert "names a time" not in html


def test_the_panel_shows_date_strength_version_and_author_and_at_most_what_was_asked_for() -> None:
    asked = Asked(memories=1)
    old = MemoryRecord("m9", 1, "episodic", "old", NOW, 0, NOW - timedelta(days=60), "llm")
    html = memories_html([MEMORY, old], asked, NOW, 60)
    assert html.count("<article") == 1
    assert 'data-do="more-memories"' in html
    assert "v2" in html
    assert "by rules" in html
    assert "width:50%" in memories_html([old], asked, NOW, 60)
    assert "1+" in tabs_html({"episodic": 2, "semantic": 0}, asked)


def test_work_that_failed_comes_first_and_can_be_tried_again() -> None:
    jobs = [job("running", 1), job("queued", 2, waiting="debounce"), job("dead", 3, error="it never was JSON")]
    html = strip_html(jobs, {"running": 1, "queued": 1, "dead": 1}, Asked(), NOW)
    assert html.index("it never was JSON") < html.index("running") < html.index("more may be said")
    assert 'data-do="retry" data-id="3"' in html


def test_work_that_is_not_listed_is_counted() -> None:
    assert "41 more" in strip_html([job("running", 1)], {"running": 1, "queued": 41}, Asked(), NOW)


def test_finished_work_leaves_the_strip_after_a_while() -> None:
    assert EN["state_done"] in strip_html([job("done", finished_at=NOW)], {"done": 1}, Asked(), NOW)
    for done in (job("done", finished_at=NOW - timedelta(minutes=5)), job("done", kind="embed", finished_at=NOW)):
        assert EN["work_idle"] in strip_html([done], {"done": 1}, Asked(), NOW)


def test_a_run_shows_its_progress() -> None:
    html = runs_html([Run("r", "consolidate", "running", 3, 8, "", NOW)], Asked())
    assert 'value="3" max="8"' in html
    assert "3 / 8" in html


def test_without_an_llm_the_banner_names_the_line_that_adds_one() -> None:
    assert "DEEPSEEK_API_KEY=" in banner_html(None, 0, (), Asked())
    assert banner_html("m", 0, (), Asked()) == ""


def test_a_backlog_is_told_with_its_size_and_a_button() -> None:
    html = banner_html("m", 212, (), Asked())
    assert "212" in html
    assert 'data-do="backfill"' in html


# ── what comes from the browser ────────────────────────────────────────────────────────────────────────────────────

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = st.sampled_from(["do", "user", "chat", "lang", "offset", "tab", "turns", "memories", "id", "text", "have"])


@given(JSON | st.dictionaries(NAMES, JSON))
def test_whatever_the_browser_sends_can_be_read(raw: Any) -> None:
    asked = Asked.read(raw)
    assert asked.lang in ("en", "zh")
    assert -840 <= asked.offset <= 840
    assert 2 <= asked.turns <= 2000
    assert len(asked.user) <= 201


async def test_before_the_memory_is_open_the_page_says_so(settings: Settings) -> None:
    page = Page(lambda: None, settings)
    assert await page.call({"do": "look", "user": "me"}) == {"ready": False}


@pytest.mark.parametrize("user", ["", "a\0b", "x" * 201, "tab\there", "\ud800"], ids=range(5))
async def test_a_user_name_that_cannot_be_one_is_refused_in_a_sentence(
    settings: Settings, opened: Any, user: str
) -> None:
    memory: AsyncMemory = await opened(run_worker=False)
    page = Page(lambda: memory, settings)
    for do in ("look", "user", "reset", "consolidate"):
        assert "user_id" in (await page.call({"do": do, "user": user, "chat": "c"}))["error"]


@pytest.mark.parametrize("user", ["O'Brien\"; DROP TABLE turns;--", "user == 'x' or 1", "😀" * 100, "小林"], ids=len)
async def test_odd_names_are_users_like_any_other(settings: Settings, opened: Any, user: str) -> None:
    memory: AsyncMemory = await opened(run_worker=False)
    page = Page(lambda: memory, settings)
    await memory.submit("mine alone", user, "c1")
    seen = await page.call({"do": "look", "user": user})
    assert "mine alone" in seen["parts"]["transcript"]["html"]
    assert "mine alone" not in str(await page.call({"do": "look", "user": "another"}))


async def test_only_the_parts_that_changed_are_sent(settings: Settings, opened: Any) -> None:
    memory: AsyncMemory = await opened(run_worker=False)
    page = Page(lambda: memory, settings)
    ask = {"do": "look", "user": "me", "chat": "c1"}
    first = await page.call(ask)
    have = {name: part["tag"] for name, part in first["parts"].items()}
    assert (await page.call({**ask, "have": have}))["parts"] == {}
    await memory.submit("something new", "me", "c1")
    assert set((await page.call({**ask, "have": have}))["parts"]) >= {"transcript", "chats"}


async def test_nobody_can_retry_read_or_delete_what_is_anothers(settings: Settings, opened: Any) -> None:
    memory: AsyncMemory = await opened(run_worker=False)
    page = Page(lambda: memory, settings)
    turn = (await memory.submit("private", "ann", "c1")).turn_ids[0]
    number = str((await memory.jobs("ann"))[0].id)
    for request in ({"do": "delete", "id": turn}, {"do": "retry", "id": number}, {"do": "details", "id": turn}):
        assert "error" in await page.call({**request, "user": "bob"})
    assert len(await memory.turns("ann", "c1")) == 1


# ── streaming ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_piece_goes_out_at_once_and_a_flood_is_coalesced() -> None:
    reply = Reply(TURN)
    seen: list[str] = []
    got_one = anyio.Event()

    async def listen(updates: AsyncIterator[str]) -> None:
        async for text in updates:
            seen.append(text)
            got_one.set()

    with anyio.fail_after(5):
        listener = asyncio.create_task(listen(Pacer().paced(reply)))
        reply.add("Once ")
        await got_one.wait()
        assert seen == ["Once "]
        for number in range(500):
            reply.add(f"{number} ")
        reply.end(None)
        await listener
    assert seen[-1] == reply.text
    assert len(seen) <= 3
    assert PACE <= 0.05


async def test_many_replies_at_once_are_updated_less_often_and_again_often_when_they_are_few() -> None:
    pacer = Pacer()
    assert pacer.pace == PACE
    replies = [Reply(TURN) for _ in range(UPDATES)]
    for reply in replies:
        reply.add("one ")
    streams = [pacer.paced(reply) for reply in replies]
    assert [await anext(stream) for stream in streams] == ["one "] * UPDATES  # first pieces wait for nothing
    assert pacer.pace == 1.0
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]
    assert pacer.pace == PACE


async def test_a_listener_that_leaves_does_not_end_the_reply() -> None:
    reply = Reply(TURN)
    reply.add("one ")
    updates = Pacer().paced(reply)
    assert await anext(updates) == "one "
    await updates.aclose()  # type: ignore[attr-defined]
    reply.add("two")
    reply.end(None)
    assert [text async for text in Pacer().paced(reply)][-1] == "one two"


async def test_the_mounted_page_keeps_every_request_at_home_and_serialises_nobody(settings: Settings) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = page_package.mount_page(fastapi.FastAPI(), lambda: None, settings)
    async with client_of(app) as client:
        home = await client.get("/")
        config = (await client.get("/config")).json()
    policy = home.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', home.text)
    streams = [event for event in config["dependencies"] if event["api_name"] in ("ask", "follow")]
    assert [(len(event["inputs"]), len(event["outputs"])) for event in streams] == [(1, 1), (1, 1)]
    assert config["analytics_enabled"] is False
