"""What the client of a campaign was told: the other side of the ledger."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Said:
    """A turn that was sent. `kept`: it was acknowledged. `word` stands in no other text of the campaign."""

    id: str
    chat: str
    text: str
    word: str
    asked: bool = False  # a reply was asked for
    kept: bool = False


@dataclass
class Reply:
    """A reply that was given to its end."""

    id: str
    chat: str
    text: str


@dataclass
class Person:
    """One user. What is under way while the server dies is neither done nor not done, until it is asked for again."""

    user: str
    said: dict[str, Said] = field(default_factory=dict)  # in the order of sending
    replies: dict[str, Reply] = field(default_factory=dict)
    edits: dict[str, list[str]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # words that a reset took away
    resetting: bool = False
    erasing: set[str] = field(default_factory=set)
    leaving: set[str] = field(default_factory=set)  # chats whose deletion is under way
    left: int = 0  # chats deleted
    chats: int = 0

    def was_reset(self) -> None:
        self.gone |= {said.word for said in self.said.values()}
        self.erased |= {*self.said, *self.replies, *self.edits}
        self.said, self.replies, self.edits = {}, {}, {}
        self.resetting = False
        self.erasing, self.leaving = set(), set()

    def was_erased(self, record: str) -> None:
        self.erased.add(record)
        self.erasing.discard(record)
        for kept in (self.said, self.replies, self.edits):
            kept.pop(record, None)

    def has_left(self, chat: str) -> None:
        self.leaving.discard(chat)
        self.left += 1
        turns = [said.id for said in self.said.values() if said.chat == chat]
        for record in turns + [reply.id for reply in self.replies.values() if reply.chat == chat]:
            self.was_erased(record)


class Told:
    """Everybody, and the words that make each text one of its own."""

    def __init__(self, rng: random.Random) -> None:
        self.people: dict[str, Person] = {}
        self.acknowledged = 0
        self.surprises: list[str] = []  # answers that nothing explains
        self._rng = rng
        self._words: set[str] = set()

    def person(self, user: str) -> Person:
        return self.people.setdefault(user, Person(user))

    def word(self) -> str:
        """A word that no text had before: letters alone, so that it is one token."""
        while True:
            parts = (self._rng.choice("bdfgklmnprstvz") + self._rng.choice("aeiou") for _ in range(5))
            word = "".join(parts) + self._rng.choice("kmpx")
            if word not in self._words:
                self._words.add(word)
                return word
