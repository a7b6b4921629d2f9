"""What requests hold, and how answers look. Limits that the core checks itself are not repeated here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Discriminator, Field, Tag

from afterword.records import ID_LIMIT, OFFSET_LIMIT, TEXT_LIMIT, Filters, Hit, Kind, NewTurn, Receipt, Ref, Role

Id = Annotated[str, Field(min_length=1, max_length=ID_LIMIT)]
Text = Annotated[str, Field(min_length=1, max_length=TEXT_LIMIT)]
Metadata = dict[str, Any]
TURNS_AT_ONCE = 5_000


class Form(BaseModel):
    """A request's body: unknown fields are refused, so that a misspelt one is not silently lost."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UserForm(Form):
    user_id: Id


class ChatForm(UserForm):
    message: Text
    chat_id: Id = "default"
    turn_id: Id | None = None
    utc_offset: int | None = Field(None, ge=-OFFSET_LIMIT, le=OFFSET_LIMIT)  # minutes east of UTC
    metadata: Metadata = {}


class StopForm(UserForm):
    chat_id: Id = "default"


class AgainForm(UserForm):
    turn_id: Id


class TurnForm(Form):
    text: Text
    chat_id: Id = "default"
    role: Role = "user"
    speaker: Id | None = None
    said_at: AwareDatetime | None = None
    utc_offset: int | None = Field(None, ge=-OFFSET_LIMIT, le=OFFSET_LIMIT)
    turn_id: Id | None = None
    metadata: Metadata = {}

    def turn(self) -> NewTurn:
        """As the core takes it. The offset is `said_at`'s own where none is named."""
        offset = self.utc_offset
        if offset is None and self.said_at is not None:
            own = self.said_at.utcoffset()
            offset = int(own.total_seconds() // 60) if own is not None else None
        return NewTurn(
            self.chat_id, self.role, self.text, self.speaker, self.said_at, offset, self.turn_id, self.metadata
        )


class OneTurnForm(TurnForm, UserForm):
    """A single turn."""


class ManyTurnsForm(UserForm):
    turns: list[TurnForm] = Field(min_length=1, max_length=TURNS_AT_ONCE)


def _one_or_many(body: Any) -> str:
    many = "turns" in body if isinstance(body, Mapping) else isinstance(body, ManyTurnsForm)
    return "many" if many else "one"


TurnsForm = Annotated[
    Annotated[OneTurnForm, Tag("one")] | Annotated[ManyTurnsForm, Tag("many")], Discriminator(_one_or_many)
]


class SearchForm(UserForm):
    query: Text
    limit: int = Field(10, ge=1, le=200)
    reconsolidate: bool = False
    kinds: tuple[Kind, ...] = ()
    chat_id: Id | None = None
    role: Role | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    metadata: Metadata = {}

    def filters(self) -> Filters:
        return Filters(self.kinds, self.chat_id, self.role, self.since, self.until, self.metadata)


class ContextForm(UserForm):
    query: Text
    budget_tokens: int = Field(2000, ge=0, le=1_000_000)
    utc_offset: int | None = Field(None, ge=-1080, le=1080)  # minutes east of UTC
    allow_orders: bool = False


class EditForm(UserForm):
    text: Text


JobAction = Literal["retry", "cancel"]


def as_json(value: Any) -> Any:
    """Any of our records as plain JSON values: `ref` becomes `id` and `version`, moments become ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
        return {**plain.pop("ref", {}), **plain}
    if isinstance(value, Ref):
        return {"id": value.record, "version": value.version}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [as_json(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def receipt_json(found: tuple[Receipt, list[Hit]] | None) -> Any:
    """A receipt with the texts that still exist, or None."""
    if found is None:
        return None
    receipt, hits = found
    return {
        "missed": receipt.missed,
        "recall_ms": receipt.recall_ms,
        "items": as_json(receipt.items),
        "hits": as_json(hits),
    }
