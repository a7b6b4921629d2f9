"""What the fakes say when nobody wrote them a script: short, deterministic, and about what they were told."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_CJK = re.compile(r"[\u3400-\u9fff]")
_PIECE = re.compile(r"[\u3040-\u9fff]{1,4}|[^\s\u3040-\u9fff]+\s*|\s+")
_TOLD = re.compile(r"(?:#(?P<number>\d+)|-) ?[^:：]*[:：] ?(?P<text>.+)")  # `#1 Ann: I left`, `- 3 May 2026: Ann left`
_TEXT_NAMES = frozenset({"text", "record", "memory", "fact", "statement", "content", "new_text"})
_FAVOURED = ("personal_fact", "add")
_FORMATS = {"date": "2026-05-03", "date-time": "2026-05-03T09:00:00Z"}


def echo(message: str) -> str:
    """A short reply that mentions the message, in its language."""
    said = " ".join(message.split())[:160]
    if _CJK.search(said):
        return f"你说的是：“{said}”。我知道了。"
    return f"You said: “{said}”. I have taken note."


def pieces(text: str) -> list[str]:
    """The text cut where a model's tokens might end; together they are the text."""
    return _PIECE.findall(text)


def answer_json(schema: Mapping[str, Any], asked: str) -> str:
    """What a decider's question (`afterword.prompts`) is answered with: valid, and about what it was asked.

    Each turn that is asked about becomes a personal fact that quotes it (or a question, where it is one), each topic the
    fact that its last episode tells. Any other schema gets its `instance`, with the last line of the question as text.
    """
    made = instance(schema, (asked.strip().splitlines() or ["Something was said."])[-1])
    if isinstance(made, dict) and isinstance(made.get("entries"), dict):
        told = _told(asked, "NEW", "ENTRIES")
        made["entries"] = {name: _entry(told.get(_number(name), "")) for name in made["entries"]}
    elif isinstance(made, dict) and isinstance(made.get("changes"), dict):
        told = _told(asked, "TOPICS", "")
        made["changes"] = {
            name: {"action": "add", "fact": told.get(_number(name), "")[:320]} for name in made["changes"]
        }
    return json.dumps(made, ensure_ascii=False)


def _number(name: str) -> int:
    found = re.match(r"#(\d+)", name)
    return int(found[1]) if found else 0


def _told(asked: str, head: str, end: str) -> dict[int, str]:
    """What each number tells, of the lines between these two: a turn stands beside its number, an episode below it."""
    lines = asked.splitlines()
    first = lines.index(head) + 1 if head in lines else 0
    last = lines.index(end) if end in lines else len(lines)
    told: dict[int, str] = {}
    for line in lines[first:last]:
        number = _number(line) or max(told, default=0)
        found = _TOLD.match(line)
        if line.startswith("#"):
            told[number] = found["text"] if found and " known: " not in line else ""
        elif found and line.startswith("- "):
            told[number] = found["text"]
    return told


def _entry(text: str) -> dict[str, Any]:
    question = text.rstrip().endswith(("?", "？"))
    kind = "general_question" if question else "personal_fact"
    told = f"用户说：“{text[:300]}”" if _CJK.search(text) else f"The user said: “{text[:300]}”"
    return {"kind": kind, "record": "" if question else told}


def instance(schema: Mapping[str, Any], text: str) -> Any:
    """A valid instance of a JSON schema (the part of it that deciders use), always the same for the same input.

    Strings that are named like a memory's text are `text`; of an enum that knows `personal_fact` it is that one, so
    that a demo on the fake remembers what it is told.
    """
    return _made(schema, text, "", schema.get("$defs", schema.get("definitions", {})))


def _made(schema: Mapping[str, Any], text: str, name: str, defs: Mapping[str, Any]) -> Any:
    if "$ref" in schema:
        return _made(defs[schema["$ref"].rpartition("/")[2]], text, name, defs)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return next((value for value in _FAVOURED if value in schema["enum"]), schema["enum"][0])
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            options = [option for option in schema[choice] if option.get("type") != "null"]
            return _made(options[0], text, name, defs) if options else None
    return _of_type(schema, text, name, defs)


def _of_type(schema: Mapping[str, Any], text: str, name: str, defs: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        properties = schema.get("properties", {})
        return {key: _made(part, text, key, defs) for key, part in properties.items()}
    if kind == "array":
        return _array(schema, text, name, defs)
    if kind == "string":
        return _string(schema, text, name)
    return {"integer": schema.get("minimum", 0), "number": schema.get("minimum", 0.0), "boolean": True}.get(kind)


def _array(schema: Mapping[str, Any], text: str, name: str, defs: Mapping[str, Any]) -> list[Any]:
    least, most = schema.get("minItems", 0), schema.get("maxItems", 1)
    return [_made(schema.get("items", {}), text, name, defs) for _ in range(min(max(least, 1), most))]


def _string(schema: Mapping[str, Any], text: str, name: str) -> str:
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    made = text if name in _TEXT_NAMES or name == "" or name.endswith("s") else f"fake {name}"
    return made.ljust(schema.get("minLength", 0), ".")[
        : schema.get("maxLength", len(made) + schema.get("minLength", 0))
    ]
