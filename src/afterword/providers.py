"""Providers of models: what other tools' variables say, and which key goes to which host. A key goes to its own only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

OPENAI_URL = "https://api.openai.com/v1"
DEEPSEEK_URL = "https://api.deepseek.com/v1"
SILICONFLOW_URL = "https://api.siliconflow.cn/v1"


class _Provider(NamedTuple):
    key: str  # the variable that holds the key
    url: str
    model: str
    embed_model: str = ""


def _providers(variables: Mapping[str, str | None]) -> list[_Provider]:
    url = variables.get("openai_base_url") or OPENAI_URL
    model = variables.get("openai_model") or ("gpt-4o-mini" if _same_host(url, OPENAI_URL) else "")
    return [
        _Provider("openai_api_key", url, model),
        _Provider("deepseek_api_key", DEEPSEEK_URL, "deepseek-chat"),
        _Provider("siliconflow_api_key", SILICONFLOW_URL, "deepseek-ai/DeepSeek-V3", "BAAI/bge-m3"),
    ]


def _same_host(one: str, other: str) -> bool:
    return urlsplit(one).netloc == urlsplit(other).netloc


def of_other_tools(values: Mapping[str, Any], variables: Mapping[str, str | None]) -> dict[str, tuple[Any, str]]:
    """What other tools' variables add where nothing was set. A key is only ever sent to the host it is for."""
    added: dict[str, tuple[Any, str]] = {}
    providers = _providers(variables)
    for provider in providers:
        key = variables.get(provider.key)
        named = provider.key == "openai_api_key" and variables.get("openai_base_url")
        if (key or named) and _fits(values, provider):
            name = provider.key.upper() if key else "OPENAI_BASE_URL"
            found = {"llm_base_url": provider.url, "llm_api_key": key, "llm_model": provider.model}
            added = {k: (v, name) for k, v in found.items() if v and not values.get(k)}
            break
    else:
        if values.get("llm_api_key") and not values.get("llm_base_url"):
            added = {"llm_base_url": (OPENAI_URL, "llm_api_key")}
    return {**_embeddings(values, variables, providers[-1]), **added}


def _fits(values: Mapping[str, Any], provider: _Provider) -> bool:
    url = values.get("llm_base_url")
    if url:
        return _same_host(str(url), provider.url)
    return not values.get("llm_api_key") or provider.key == "openai_api_key"


def _embeddings(
    values: Mapping[str, Any], variables: Mapping[str, str | None], provider: _Provider
) -> dict[str, tuple[Any, str]]:
    key = variables.get(provider.key)
    url = values.get("embed_base_url")
    if not key or values.get("embedder") in ("local", "none") or (url and not _same_host(str(url), provider.url)):
        return {}
    if values.get("embed_api_key") and not url:
        return {}
    found = {"embed_base_url": provider.url, "embed_api_key": key, "embed_model": provider.embed_model}
    return {k: (v, provider.key.upper()) for k, v in found.items() if not values.get(k)}


def as_the_chats(data: Mapping[str, Any]) -> dict[str, Any]:
    """The decider's and the embedder's address and key where they are left empty. A key goes to its own host only."""
    added: dict[str, Any] = {}
    chat_url, chat_key = data.get("llm_base_url") or "", data.get("llm_api_key") or ""
    for role in ("decider", "embed"):
        if role == "embed" and data.get("embedder") != "openai" and not data.get("embed_model"):
            continue
        url = data.get(f"{role}_base_url") or chat_url or (OPENAI_URL if data.get(f"{role}_api_key") else "")
        added[f"{role}_base_url"] = url
        if not data.get(f"{role}_api_key") and _same_host(str(url), str(chat_url)):
            added[f"{role}_api_key"] = chat_key
    if not data.get("decider_model") and added["decider_base_url"] == chat_url:
        added["decider_model"] = data.get("llm_model") or ""
    return added
