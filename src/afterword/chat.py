"""One turn, from the user's message to the stored reply: steps 1 to 4 of the way of a turn.

A reply is owned by the server, not by whoever listens: it goes on when the tab is closed, and its end is stored
whatever happens to it.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog

from afterword.context.briefing import Brief, Briefing, Wanted
from afterword.errors import AfterwordError, Closed, EpochChanged, InvalidInput, LedgerError, LLMUnavailable, NotFound
from afterword.lanes import reconsolidate_job
from afterword.language.texts import estimate_tokens
from afterword.ports import LLM, Message, Prompt
from afterword.prompts import language_of, system_prompt
from afterword.recall import Recalled
from afterword.records import (
    TEXT_LIMIT,
    Hit,
    MemoryRecord,
    NewReply,
    NewTurn,
    Receipt,
    ReceiptItem,
    Scope,
    Turn,
    checked_text,
    hit_of,
)
from afterword.reply import Reply

if TYPE_CHECKING:
    from afterword.intake import Intake
    from afterword.pacing import Precedence
    from afterword.ports import Clock, Ledger, Opening, Policy

log = structlog.get_logger(__name__)

STORE_TRIES = 3
TOO_LONG = "ask again, for less at once; if it lasts, choose another model"


@dataclass(frozen=True, slots=True)
class ChatLimits:
    """How much goes into a prompt, and how long a reply may take (seconds)."""

    history_turns: int = 12
    history_tokens: int = 2000
    context_tokens: int = 1500
    recall_limit: int = 12
    first_token: float = 60.0
    gap: float = 60.0
    total: float = 600.0


class OpenTurn:
    """A kept message with what was recalled for it, waiting for a reply that somebody else makes."""

    def __init__(self, chats: Chats, scope: Scope, epoch: int, turn: Turn, brief: Brief) -> None:
        self.turn = turn
        self.hits = brief.hits
        self.missed = brief.given.missed
        self.context = brief.text
        self._given = brief.given
        self._chats = chats
        self._scope = scope
        self._epoch = epoch

    async def reply(self, text: str, *, cut: str | None = None) -> Turn:
        """Hand in the reply. Raises `EpochChanged` after a reset, `InvalidInput` when there is one already."""
        return await self._chats.store(
            self._scope, self._epoch, self.turn, checked_text(text), cut, self._given, searchable=True
        )


class Chats:
    """All replies under way in this process."""

    def __init__(
        self,
        ledger: Ledger,
        intake: Intake,
        briefing: Briefing,
        llm: LLM,
        clock: Clock,
        policy: Policy,
        limits: ChatLimits,
        precedence: Precedence,
    ) -> None:
        self._precedence = precedence
        self._ledger = ledger
        self._intake = intake
        self._briefing = briefing
        self._llm = llm
        self._clock = clock
        self._policy = policy
        self._limits = limits
        self._live: dict[tuple[Scope, str], Reply] = {}
        self._closed = False

    # ── starting and finding replies ───────────────────────────────────────────────────────────────────────────────

    async def start(self, scope: Scope, new: NewTurn) -> Reply:
        """Keep the message, then let the reply begin. A `turn_id` that has a reply gives that reply."""
        with self._precedence.urgent():
            return self._reply_from(scope, await self._accept(scope, new))

    async def open(self, scope: Scope, new: NewTurn) -> OpenTurn:
        """Keep the message and recall, for a reply that comes from elsewhere."""
        opening = await self._accept(scope, new)
        brief = await self._brief(scope, opening.turn, self._history(opening))
        return OpenTurn(self, scope, opening.epoch, opening.turn, brief)

    async def again(self, scope: Scope, turn_id: str) -> Reply:
        """A reply to a kept message that has none, or only a cut one."""
        if live := self._under_way(scope, turn_id):
            return live
        return self._reply_from(scope, await self._ledger.opening(scope, turn_id, self._limits.history_turns))

    def live(self, scope: Scope, chat_id: str) -> Reply | None:
        """The newest reply under way in this chat."""
        found = [r for (s, _), r in self._live.items() if s == scope and r.turn.chat_id == chat_id and not r.over]
        return found[-1] if found else None

    def under_way(self, scope: Scope, but: str | None) -> tuple[int, int]:
        """How many replies are being written, to this user and in all; that to turn `but` is not counted."""
        of_user = [turn for of, turn in self._live if of == scope]
        again = but is not None and (scope, but) in self._live
        return len(of_user) - again, len(self._live) - again

    @property
    def any_under_way(self) -> bool:
        """Whether anybody waits for a reply."""
        return bool(self._live)

    async def abandon(self, scope: Scope) -> None:
        """End this scope's replies without storing anything (the scope is about to be erased)."""
        await self._end_all([reply for (s, _), reply in self._live.items() if s == scope], "reset")

    async def close(self) -> None:
        """Take no more; store what was made of the replies under way, marked as cut by the shutdown."""
        self._closed = True
        await self._end_all(list(self._live.values()), "shutdown")

    async def _end_all(self, replies: list[Reply], why: str) -> None:
        for reply in replies:
            reply.stop(why)
        await asyncio.gather(*(reply.done() for reply in replies))

    async def _accept(self, scope: Scope, new: NewTurn) -> Opening:
        if self._closed:
            raise Closed("the server is shutting down: send the message again in a moment")
        self._briefing.expect(new.text)
        return await self._intake.begin(scope, new, self._limits.history_turns)

    def _reply_from(self, scope: Scope, opening: Opening) -> Reply:
        """The reply that is under way, the one that was given, or a new one."""
        turn, given = opening.turn, opening.reply
        if turn.role != "user":
            raise InvalidInput(f"turn {turn.id} is a reply: name the message that it answers")
        if live := self._under_way(scope, turn.id):  # two may ask at once
            return live
        reply = Reply(turn)
        if given is not None and given.cut is None:
            reply.add(given.text)
            reply.end(given)
            return reply
        self._live[scope, turn.id] = reply
        reply.run(self._run(scope, opening, reply))
        return reply

    def _under_way(self, scope: Scope, turn_id: str) -> Reply | None:
        reply = self._live.get((scope, turn_id))
        return None if reply is None or reply.over else reply

    # ── the way of one reply ───────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, scope: Scope, opening: Opening, reply: Reply) -> None:
        try:
            await self._write(scope, reply, self._history(opening))
        except asyncio.CancelledError:
            reply.cut = reply.cut_as
        except LLMUnavailable as error:
            reply.cut, reply.fix = str(error), error.fix
        except AfterwordError as error:
            reply.cut = str(error)
        except Exception as error:  # the edge: a reply that breaks must still be ended and kept
            log.exception("reply.failed", chat_id=reply.turn.chat_id, turn_id=reply.turn.id)
            reply.cut = f"{type(error).__name__}: {error}"
        finally:
            stored: Turn | None = None
            with suppress(asyncio.CancelledError):
                stored = await asyncio.shield(self._keep(scope, opening.epoch, reply))
            self._live.pop((scope, reply.turn.id), None)
            reply.end(stored)

    async def _write(self, scope: Scope, reply: Reply, history: list[Turn]) -> None:
        brief = await self._brief(scope, reply.turn, history)
        reply.found(brief.given)
        prompt = self._prompt(reply.turn, history, brief)
        limits = self._limits
        time = asyncio.get_running_loop().time
        ends = time() + limits.total
        try:
            async with asyncio.timeout(limits.total), aclosing(self._llm.stream(prompt)) as pieces:
                wait, size = limits.first_token, 0
                while True:
                    async with asyncio.timeout(wait):
                        piece = await anext(pieces, None)
                    if piece is None:
                        break
                    wait = limits.gap
                    size += len(piece)
                    if size > TEXT_LIMIT:
                        raise LLMUnavailable(f"the LLM wrote more than {TEXT_LIMIT:,} characters", fix=TOO_LONG)
                    if piece:
                        reply.add(piece)
        except TimeoutError:
            whole = time() >= ends
            raise _too_slow(limits, began=bool(reply.text), whole=whole) from None
        if not reply.text.strip():
            raise LLMUnavailable("the LLM gave an empty reply", fix="ask again, or choose another model")

    def _history(self, opening: Opening) -> list[Turn]:
        """The turns before this one that fit the prompt, oldest first."""
        kept: list[Turn] = []
        room = self._limits.history_tokens
        for earlier in reversed(opening.before):
            room -= estimate_tokens(earlier.text)
            if room < 0:
                break
            if earlier.text:
                kept.append(earlier)
        return kept[::-1]

    async def _brief(self, scope: Scope, turn: Turn, history: list[Turn]) -> Brief:
        limits = self._limits
        exclude = frozenset({turn.id, *(earlier.id for earlier in history)})
        wanted = Wanted(turn.text, limits.recall_limit, limits.context_tokens, turn.utc_offset, exclude)
        with self._precedence.urgent():
            return await self._briefing.brief(scope, wanted)

    def _prompt(self, turn: Turn, history: list[Turn], brief: Brief) -> Prompt:
        now = self._clock.now()
        system = system_prompt(language_of(turn.text), brief.text, now, turn.utc_offset, self._policy)
        said = [Message(earlier.role, earlier.text) for earlier in history]
        messages = (Message("system", system), *said, Message("user", turn.text))
        return Prompt(messages, turn.text, brief.hits, now, turn.utc_offset)

    # ── keeping it ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep(self, scope: Scope, epoch: int, reply: Reply) -> Turn | None:
        """Store the reply with its receipt. Kept too when empty but for its error: a reload then shows the cause."""
        if reply.cut == "reset" or (reply.cut == "shutdown" and not reply.text):
            return None
        recalled = await reply.recalled() if reply.state == "writing" else Recalled((), "", 0.0)
        searchable = bool(reply.text.strip()) and not self._llm.quotes
        for attempt in range(1, STORE_TRIES + 1):
            try:
                return await self.store(
                    scope, epoch, reply.turn, reply.text, reply.cut, recalled, searchable=searchable, fix=reply.fix
                )
            except (EpochChanged, NotFound, InvalidInput):
                return None  # reset, deleted, or answered elsewhere meanwhile: there is nothing left to answer
            except LedgerError as error:
                log.warning("reply.not_stored", turn_id=reply.turn.id, attempt=attempt, error=error)
                reply.cut, reply.fix = "the reply could not be stored", str(error)
                await asyncio.sleep(0.2 * attempt)
        return None

    async def store(
        self,
        scope: Scope,
        epoch: int,
        turn: Turn,
        text: str,
        cut: str | None,
        recalled: Recalled,
        *,
        searchable: bool,
        fix: str = "",
    ) -> Turn:
        """Step 4: the reply, its receipt and its reconsolidate job in one commit."""
        new = NewReply(
            turn.chat_id,
            turn.id,
            text,
            self._clock.now(),
            turn.utc_offset,
            cut,
            searchable,
            {"fix": fix} if fix else {},
            reply_id=uuid4().hex,
        )
        items = tuple(ReceiptItem(hit.ref, hit.kind, hit.score, hit.parts, hit.sources) for hit in recalled.hits)
        receipt = Receipt(items, recalled.missed, recalled.ms)
        jobs = self._intake.embedding(scope) if searchable else []
        if receipt.is_open(text) and new.reply_id:
            jobs.append(reconsolidate_job(scope, turn.chat_id, new.reply_id))
        return await self._ledger.answer(scope, epoch, new, receipt, jobs)

    async def receipt(self, scope: Scope, reply_id: str) -> tuple[Receipt, list[Hit]] | None:
        """The receipt, and its memories as they stood when they were used, as far as they still exist."""
        receipt = await self._ledger.receipt(scope, reply_id)
        if receipt is None:
            return None
        current = await self._ledger.read(scope, [item.ref for item in receipt.items])
        hits = []
        for item in receipt.items:
            found = current.get(item.ref) or await self._older(scope, item)
            if found is not None:
                hits.append(hit_of(found, item.score, item.parts))
        return receipt, hits

    async def _older(self, scope: Scope, item: ReceiptItem) -> MemoryRecord | None:
        if item.kind == "turn":
            return None
        with suppress(NotFound):
            for version in await self._ledger.history(scope, item.ref.record):
                if version.version == item.ref.version:
                    return version
        return None


def _too_slow(limits: ChatLimits, *, began: bool, whole: bool) -> LLMUnavailable:
    """Which of a reply's deadlines ran out, and what to do about it."""
    load = "look at the load of the LLM's server, take a smaller model, or raise"
    if whole:
        cause = f"the reply was not at its end after {limits.total:g} s"
        return LLMUnavailable(cause, fix="ask again, for less at once, or raise AFTERWORD_REPLY_DEADLINE")
    if began:
        cause = f"the LLM fell silent for {limits.gap:g} s in the middle of the reply"
        return LLMUnavailable(cause, fix=f"{load} AFTERWORD_REPLY_GAP_DEADLINE")
    cause = f"the LLM began no reply within {limits.first_token:g} s"
    return LLMUnavailable(cause, fix=f"{load} AFTERWORD_FIRST_TOKEN_DEADLINE")
