"""Leaves out what a reasoning model thinks aloud before it answers."""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


class ThinkFilter:
    """Drops a leading `<think>…</think>` from a text that comes in pieces; what comes later is text like any other."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._passing = False

    def feed(self, piece: str) -> str:
        """What of the text so far can be given out now."""
        if self._passing:
            return piece
        self._held += piece
        if not self._inside:
            start = self._held.lstrip()
            if OPEN.startswith(start):  # too short to tell
                return ""
            if not start.startswith(OPEN):
                return self._pass(self._held)
            self._inside = True
            self._held = start[len(OPEN) :]
        end = self._held.find(CLOSE)
        if end < 0:
            self._held = self._held[-len(CLOSE) :]  # the mark may be cut in two
            return ""
        return self._answer(self._held[end + len(CLOSE) :])

    def rest(self) -> str:
        """What was held back when the text ended."""
        return "" if self._inside else self._pass("") if self._passing else self._held

    def _answer(self, text: str) -> str:
        """Skip the blanks between the thoughts and the answer, which may come in pieces too."""
        text = text.lstrip()
        if text:
            return self._pass(text)
        self._held = CLOSE  # keeps looking for the answer's first letter
        return ""

    def _pass(self, text: str) -> str:
        self._passing = True
        self._held = ""
        return text


def without_thoughts(text: str) -> str:
    """The whole text without its thoughts."""
    thoughts = ThinkFilter()
    return thoughts.feed(text) + thoughts.rest()
