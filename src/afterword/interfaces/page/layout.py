"""The page as Gradio sees it: one block of HTML that is ours, one Markdown that a reply streams into, two events.

Everything but the stream goes through the block's server functions: plain calls that skip Gradio's queue and send
only the parts that changed. Each event has one input and one output, so that nothing delays the first piece.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from afterword.interfaces.page.handlers import Page
from afterword.interfaces.page.strings import WORDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from afterword.memory import AsyncMemory
    from afterword.settings import Settings

FOLDER = Path(__file__).parent
SCRIPTS = ("screen.js", "dialogs.js", "live.js")
FONTS = ["system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32'"
    " rx='8' fill='%230f766e'/%3E%3Cpath d='M9 11h14M9 16h14M9 21h7' stroke='white' stroke-width='2.6'"
    " stroke-linecap='round'/%3E%3C/svg%3E"
)
STYLE = (FOLDER / "style.css").read_text("utf-8")
HEAD = f'<link rel="icon" href="{ICON}"><meta name="color-scheme" content="light dark">'
THEME = gr.themes.Base(font=FONTS, font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"])
MOST_EVENTS = 1000  # streams at once; Gradio's own limit of 40 holds async handlers back too


def build(memory: Callable[[], AsyncMemory | None], settings: Settings) -> gr.Blocks:
    """The Blocks of the page, ready to be mounted."""
    page = Page(memory, settings)
    demo: gr.Blocks
    with gr.Blocks(title="Afterword", analytics_enabled=False, fill_width=True, fill_height=True) as demo:
        asked = gr.JSON(visible=False)
        with gr.HTML(
            html_template=(FOLDER / "shell.html").read_text("utf-8") + "@children",
            js_on_load=_script(settings),
            apply_default_css=False,
            elem_id="aw-app",
            server_functions=page.server_functions(),
        ) as app:
            live = gr.Markdown(elem_id="aw-live", latex_delimiters=[], line_breaks=True, sanitize_html=True)
        _wire(page, app, asked, live)
        _settle_config(app)
    demo.max_threads = MOST_EVENTS
    demo.queue(default_concurrency_limit=None)
    return demo


def _settle_config(app: gr.HTML) -> None:
    """What the browser is told of our block never changes, and is costly to ask for: Gradio does for each new tab, and
    looks through our whole script for every attribute that a component might have."""
    config = app.get_config()
    app.get_config = lambda: dict(config)  # type: ignore[method-assign]


def _script(settings: Settings) -> str:
    setup = {
        "user": settings.user,
        "language": "" if settings.language == "auto" else settings.language,
        "events": "/events",
    }
    values = f"const WORDS = {json.dumps(WORDS)};\nconst SETUP = {json.dumps(setup)};"
    return "\n".join((values, *((FOLDER / name).read_text("utf-8") for name in SCRIPTS)))


def _wire(page: Page, app: gr.HTML, asked: gr.JSON, live: gr.Markdown) -> None:
    """`ask` sends a message, `follow` takes up a reply under way; both end with the page's own look at the result."""
    settle = "async () => { await window.afterword.settled(%s); return ['']; }"
    streams = []
    for name, handler in (("ask", page.ask), ("follow", page.follow)):
        event = getattr(app, name)(
            handler,
            inputs=[asked],
            outputs=[live],
            js="() => [window.afterword.outgoing()]",
            show_progress="hidden",
            trigger_mode="multiple",
            concurrency_limit=None,
            api_name=name,
        )
        # `then` alone does not come after a failure
        for ended, failed in ((event.success, "false"), (event.failure, "true")):
            ended(None, outputs=[live], js=settle % failed, show_progress="hidden", api_visibility="private")
        streams.append(event)
    app.leave(
        None,
        outputs=[live],
        js="() => ['']",
        cancels=streams,
        show_progress="hidden",
        api_visibility="private",
    )
