"""How a server wants to be asked: compatible servers differ in what of the protocol they take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from afterword.ports import Message
    from afterword.records import Json

Format = Literal["json_schema", "json_object", "text"]
_WEAKER: dict[Format, Format] = {"json_schema": "json_object", "json_object": "text"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """Begins as the protocol has it; `adapted` is the next thing to try after a refusal."""

    format: Format = "json_schema"
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True

    def request(self, messages: Sequence[Message], schema: Json, max_tokens: int) -> dict[str, Any]:
        """The arguments of one completion that should be JSON of the schema."""
        request: dict[str, Any] = {self.limit: max_tokens, "messages": self._messages(messages, schema)}
        if self.temperature:
            request["temperature"] = 0
        if self.format == "json_schema":
            request["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        elif self.format == "json_object":
            request["response_format"] = {"type": "json_object"}
        return request

    def adapted(self, refusal: str) -> Dialect | None:
        """What to try after a 400 or 422 with this text; None when asking in another way can't help."""
        words = refusal.lower()
        if self.limit == "max_tokens" and "max_completion_tokens" in words:
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in words:
            return replace(self, temperature=False)
        weaker = _WEAKER.get(self.format)
        return replace(self, format=weaker) if weaker else None

    def _messages(self, messages: Sequence[Message], schema: Json) -> list[dict[str, str]]:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        if self.format == "json_schema":
            return plain
        # a server that does not hold the answer to the schema needs to be told it
        told = f"Answer with one JSON object of this JSON schema and nothing else:\n{json.dumps(schema)}"
        if plain and plain[0]["role"] == "system":
            plain[0] = {"role": "system", "content": f"{plain[0]['content']}\n\n{told}"}
            return plain
        return [{"role": "system", "content": told}, *plain]
