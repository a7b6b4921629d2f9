"""Turns that are decided together: what of each can tell about its speaker, and whether a record holds to it.

Pure. In a talk between people most of what is said is said to the other: praise, thanks, questions, and small models take
one person's facts for the other's. What can be told by form is told here, before an LLM is asked and after it answered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from afterword import rules
from afterword.decisions import dates_in, grounded, invented_details, names_in, numbers_in
from afterword.language.slips import slip
from afterword.language.texts import content_words, joined, language_of, sentences, share
from afterword.prompts import is_person, said_by

if TYPE_CHECKING:
    from afterword.ports import Policy
    from afterword.records import Turn

CONTEXT_TURNS = 4
TOLD = 0.65  # of a record's words that stand in its own turn, or:
ANSWERED = 0.3  # of a record's words that stand in its own turn, if it answers another one,
AROUND = 0.75  # and that stand in its own turn or in one before it: small models mix turns up
PASSED_OVER = 0.25  # of a sentence's words that stand in no record
COVERED = 0.5  # of a turn's words that its record has, if there are no more than SHORT,
CORRECTED = 0.8  # or if the turn corrects something
SHORT = 20
_PICTURE = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True)
class Talk:
    """The turns that are decided, by their number in the prompt, and what stands before them."""

    before: tuple[Turn, ...]
    new: tuple[Turn, ...]

    @cached_property
    def people(self) -> list[str]:
        language = language_of(" ".join(turn.text for turn in self.new))
        return list(dict.fromkeys(said_by(turn, language) for turn in (*self.before, *self.new) if is_person(turn)))

    @property
    def between_people(self) -> bool:
        return len(self.people) > 1

    def own(self, turn: Turn) -> str:
        """What of a person's turn can tell about them: all of it, but where people talk with each other."""
        if not self.between_people:
            return turn.text
        return rules.about_speaker(turn.text, self.people, answers=bool(self.question_to(turn)))

    def question_to(self, turn: Turn) -> str:
        """What the turn before, of somebody else, asked last; "" if that asked nothing."""
        earlier = [one for one in self.upto(turn) if one.position < turn.position]
        if not earlier or (earlier[-1].role, earlier[-1].speaker) == (turn.role, turn.speaker):
            return ""
        asked = [sentence for sentence in sentences(earlier[-1].text) if rules.is_question(sentence)]
        return asked[-1] if asked else ""

    def told(self, turn: Turn, policy: Policy) -> list[rules.Told]:
        """The sentences that tell something by their form, without what must never be written."""
        told = rules.told(turn, self.own(turn) if self.between_people else None)
        return [one for one in told if not rules.forbidden(one.sentence, policy.never)]

    @cached_property
    def evidence(self) -> dict[str, str]:
        """Of each turn by its id, how the prompt showed it: with its date, its speaker and its times worked out."""
        return {turn.id: _evidence_of(turn.text, turn) for turn in (*self.before, *self.new)}

    @cached_property
    def wanted(self) -> dict[int, Turn]:
        """The turns worth an entry."""
        return {
            number: turn
            for number, turn in enumerate(self.new, 1)
            if is_person(turn) and not rules.teaches_nothing(self.own(turn))
        }

    def _part(self, start: int, end: int) -> Talk:
        """The turns from place `start` up to `end`, with what stands before them."""
        before = (*self.before, *self.new[:start])[-CONTEXT_TURNS:]
        return Talk(before, self.new[start:end])

    def upto(self, turn: Turn) -> tuple[Turn, ...]:
        """What had been said when this turn was: nobody knew more."""
        return tuple(one for one in (*self.before, *self.new) if one.position <= turn.position)

    def parts(self, most: int) -> list[Talk]:
        """The talk in parts of at most `most` turns worth an entry."""
        parts: list[Talk] = []
        start, entries = 0, 0
        for number in range(1, len(self.new) + 1):
            entries += number in self.wanted
            if entries > most:
                parts.append(self._part(start, number - 1))
                start, entries = number - 1, 1
        return [*parts, self._part(start, len(self.new))] if entries else parts


def objection(text: str, turn: Turn, talk: Talk) -> str:
    """What is wrong with a record of this turn, "" when nothing is."""
    if not text:
        return "empty"
    language = language_of(text)
    people = list(dict.fromkeys(said_by(one, language) for one in (*talk.before, *talk.new) if is_person(one)))
    wrong = slip(text, talk.own(turn), said_by(turn, language), people)
    if wrong or not _rests_on(text, turn, talk):
        return wrong or "not what was said"
    left_out = _left_out(text, talk.own(turn), people)
    return f"leaves out {', '.join(left_out)}" if left_out else ""


def _left_out(text: str, own: str, people: Sequence[str]) -> list[str]:
    """Names and numbers that the record lacks, or much of a short turn, or anything of a correction.

    Looked at are the sentences that it tells something of. The names of those who talk are not counted.
    """
    again, told_again = content_words(text), text.lower()
    touched = [one for one in sentences(_PICTURE.sub("", own)) if share(content_words(one), again) >= PASSED_OVER]
    told = joined(touched)
    words = content_words(told) - content_words(" ".join(people))
    least = CORRECTED if rules.corrects(told) else COVERED if len(words) <= SHORT else 0.0
    if not rules.is_question(told) and share(words, again) < least:
        return ["much of it"]
    names = [name for name in names_in(told) if not any(who.lower().startswith(name) for who in people)]
    return sorted({name for name in names if name not in told_again} | (numbers_in(told) - numbers_in(text)))


def _rests_on(text: str, turn: Turn, talk: Talk) -> bool:
    """Grounded in its turn; what that answers or goes on from may add to it, names and numbers from all said before.

    A whole date is of its own turn or of the question: a date that was said of something else is a small model's slip.
    It goes on where it refers back, or answers a question; where people talk with each other, only in the latter case.
    """
    known = talk.upto(turn)
    people = " ".join({said_by(one, "en") for one in known})
    said = _evidence_of(_PICTURE.sub("", talk.own(turn)), turn)
    around = "\n".join(talk.evidence[one.id] for one in known)
    persons = "\n".join(talk.evidence[one.id] for one in known if is_person(one))  # an assistant is no evidence
    question = talk.question_to(turn)
    goes_on = question or (not talk.between_people and rules.refers(talk.own(turn)))
    answers = goes_on and grounded(text, said, least=ANSWERED, people=people)
    if not answers or not grounded(text, f"{persons}\n{question}", least=AROUND, people=people):
        answers = grounded(text, said, least=TOLD, people=people)
    borrowed = dates_in(text) - dates_in(f"{said}\n{_evidence_of(question, turn)}")
    return bool(answers) and not borrowed and not invented_details(text, around)


def _evidence_of(text: str, turn: Turn) -> str:
    return f"{rules.record_text(turn, text, whole=True)} {said_by(turn, 'en')}"
