"""Keeps the documents true: each code block named by a comment is the file (or the region of a file) it names.

    python -m docs.code.embed          writes the blocks, docs/settings.md and docs/cli.md anew

A comment `<!-- docs/code/outbox.py#handler -->` stands in the line before its block. `tests/test_docs.py` compares.
"""

from __future__ import annotations

import re
from pathlib import Path

from docs.code.cli_page import cli_page
from docs.code.settings_page import settings_page

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md",
    "README.zh-CN.md",
    "docs/why-the-reply-comes-first.md",
    "docs/why-the-reply-comes-first.zh-CN.md",
)
MADE = {"docs/settings.md": settings_page, "docs/cli.md": cli_page}
BLOCK = re.compile(r"^<!-- (?P<name>docs/code/[\w./#-]+) -->\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def code(name: str) -> str:
    """The text of `path` or of `path#region`. Raises `ValueError` where there is no such region."""
    path, _, region = name.partition("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    if not region:
        return text
    found = re.search(rf"^# region: {re.escape(region)}\n(.*?)^# endregion$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{path} has no region {region}")
    return found[1].strip("\n") + "\n"


def names(text: str) -> list[str]:
    """What a document's code blocks name, in order."""
    return [found["name"] for found in BLOCK.finditer(text)]


def embedded(text: str) -> str:
    """A document with its code blocks as the files have them."""

    def block(found: re.Match[str]) -> str:
        return f"<!-- {found['name']} -->\n```python\n{code(found['name'])}```"

    return BLOCK.sub(block, text)


def main() -> None:
    for name in DOCUMENTS:
        path = ROOT / name
        path.write_text(embedded(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name, make in MADE.items():
        (ROOT / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
