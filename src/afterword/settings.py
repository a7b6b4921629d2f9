"""Settings, read once: flags, then the environment, `.env`, one TOML file, other tools' variables, defaults.

`load_settings` reads them; `Settings(...)` made directly reads nothing from outside, which is what tests want.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import Field, PrivateAttr, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from afterword.errors import SettingsError
from afterword.providers import as_the_chats, of_other_tools

PREFIX = "afterword_"
OF_SCRIPTS = frozenset({"env", "python", "installer", "artefacts"})  # variables that scripts/ read, no settings

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Words = Annotated[str, Field(max_length=4_000)]


class SettingRow(NamedTuple):
    """A setting as a person may see it: secrets masked, and where its value came from."""

    name: str
    value: str
    source: str
    help: str


def _help(text: str, default: Any, **limits: Any) -> Any:
    return Field(default, description=text, validate_default=True, **limits)


class Settings(BaseSettings):
    """Everything a person can set. Frozen; a setting's description says what it takes."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX, str_strip_whitespace=True)

    # where things are
    data_dir: Path = _help("a folder that can be written", Path())
    ledger_url: str = _help("a sqlite:// or postgresql:// URL, or empty for ledger.db in the data folder", "")
    # serving
    host: str = _help("the address to listen on; another than loopback needs a token", "127.0.0.1", min_length=1)
    port: int = _help("a port from 0 (any) to 65535", 7860, ge=0, le=65535)
    open_browser: bool = _help("true or false", True)
    token: SecretStr = _help("a secret that callers must send; empty on loopback", SecretStr(""))
    # who and where the person is
    tenant: str = _help("the name of the tenant, 1 to 200 characters", "default", min_length=1, max_length=200)
    user: str = _help("the user to start with, 1 to 200 characters", "me", min_length=1, max_length=200)
    language: Literal["auto", "en", "zh"] = _help("'auto', 'en' or 'zh'", "auto")
    timezone: str = _help("an IANA name such as 'Europe/Oslo', or empty for the system's", "")
    # the LLM that chats
    llm_base_url: str = _help("the address of an OpenAI-compatible server, up to and with /v1", "")
    llm_api_key: SecretStr = _help("its key, if it needs one", SecretStr(""))
    llm_model: str = _help("the name of the chat model", "")
    # the LLM that works behind the reply; empty: as the chat's
    decider_base_url: str = _help("the address for background work, or empty for the chat's", "")
    decider_api_key: SecretStr = _help("its key, or empty for the chat's", SecretStr(""))
    decider_model: str = _help("the model for background work, or empty for the chat's", "")
    # embeddings
    embedder: Literal["auto", "local", "openai", "none"] = _help("'auto', 'local', 'openai' or 'none'", "auto")
    embed_base_url: str = _help("the address for embeddings, up to and with /v1", "")
    embed_api_key: SecretStr = _help("its key, if it needs one", SecretStr(""))
    embed_model: str = _help("the name of the embedding model", "")
    # reranking
    rerank_base_url: str = _help("the address of a server with /v1/rerank, up to and with /v1", "")
    rerank_api_key: SecretStr = _help("its key, if it needs one", SecretStr(""))
    rerank_model: str = _help("the name of a model that reranks what was found; empty: none", "")
    # index
    milvus_uri: str = _help("a local path, a Milvus server's URI or a Zilliz Cloud URI; empty: none", "")
    milvus_token: SecretStr = _help("the token of that Milvus", SecretStr(""))
    index_memory_mb: int = _help("megabytes, 8 or more", 512, ge=8)
    # deadlines
    recall_deadline: Seconds = _help("seconds before a reply goes on without memories", 1.0)
    first_token_deadline: Seconds = _help("seconds until the first piece of a reply", 60.0)
    reply_gap_deadline: Seconds = _help("seconds between two pieces of a reply", 60.0)
    reply_deadline: Seconds = _help("seconds for a whole reply", 600.0)
    decider_deadline: Seconds = _help("seconds for a background answer", 240.0)
    embed_deadline: Seconds = _help("seconds for a batch of background embeddings", 30.0)
    query_embed_deadline: Seconds = _help("seconds for the embedding of a query", 0.6)
    rerank_deadline: Seconds = _help("seconds for reranking what was found", 0.3)
    connect_deadline: Seconds = _help("seconds to a connection with an LLM or an embedding server", 10.0)
    index_deadline: Seconds = _help("seconds for a search in Milvus", 5.0)
    ledger_deadline: Seconds = _help("seconds that a write waits for a ledger that another program locks", 10.0)
    drain_deadline: float = _help("seconds that background work gets at a stop", 5.0, ge=0, le=600)
    # what is remembered
    remember: Words = _help("what to remember, in plain words, at most 4,000 characters", "")
    never: Words = _help("what never to remember, in plain words, at most 4,000 characters", "")
    debounce: float = _help("seconds of quiet before a chat's new turns are decided", 2.0, ge=0, le=3600)
    debounce_most: float = _help("seconds after which they are decided anyway", 20.0, ge=0, le=86_400)
    window_turns: Count = _help("turns that one decision reads at most", 24)
    window_tokens: Count = _help("tokens that one decision reads at most", 3000)
    consolidate_cron: str = _help("a cron expression, e.g. '0 4 * * *', or empty for never", "0 4 * * *")
    consolidate_chunk: Count = _help("episodes that one chunk of a consolidation reads", 20)
    backfill: Literal["ask", "on", "off"] = _help("'ask', 'on' or 'off'", "ask")
    backfill_per_minute: Count = _help("backlog decisions a minute", 6)
    half_life_days: float = _help("days in which the strength of an unused memory halves", 60.0, gt=0)
    retention_days: int = _help("days after which turns and episodes are erased; 0 keeps them", 0, ge=0)
    # what goes into a prompt
    history_turns: int = _help("the chat's newest turns in the prompt, at most", 12, ge=0, le=1000)
    history_tokens: int = _help("tokens of them, at most", 2000, ge=0, le=1_000_000)
    context_tokens: int = _help("tokens of memories in the prompt, at most", 1500, ge=0, le=1_000_000)
    recall_limit: int = _help("memories that a reply is given, 0 to 200", 12, ge=0, le=200)
    # the worker
    worker_concurrency: int = _help("background jobs at once, 1 to 256", 8, ge=1, le=256)
    lease: Seconds = _help(
        "seconds without a sign of life after which another worker takes up a job; the same for all", 30.0
    )
    keep_jobs_days: float = _help("days that done and cancelled jobs are kept; given up ones stay", 7.0, gt=0, le=3650)
    # limits: docs/reliability.md says what happens at each
    max_waiting_jobs: int = _help("waiting jobs at most, 100 or more", 100_000, ge=100)
    max_waiting_jobs_per_user: int = _help("waiting jobs of one user at most, 10 or more", 10_000, ge=10)
    max_waiting_turns: int = _help("turns that wait to be decided at most, 100 or more", 1_000_000, ge=100)
    max_waiting_turns_per_user: int = _help("the same for one user, 100 or more", 100_000, ge=100)
    max_waiting_mb: float = _help("megabytes of turns that wait to be decided at most", 2_000.0, gt=0)
    max_waiting_mb_per_user: float = _help("the same for one user", 200.0, gt=0)
    max_replies: int = _help("replies under way at once at most, 1 or more", 2_000, ge=1)
    max_replies_per_user: int = _help("the same for one user", 256, ge=1)
    max_requests_per_minute: int = _help("HTTP requests from one address a minute at most; 0: any number", 0, ge=0)
    # logs
    log_level: Literal["debug", "info", "warning", "error"] = _help("'debug', 'info', 'warning' or 'error'", "info")
    log_json: bool = _help("true or false", False)
    log_content: bool = _help("true lets messages and prompts into the logs, to look for a fault; else false", False)
    otlp_endpoint: str = _help("the address of an OpenTelemetry collector, e.g. http://127.0.0.1:4318; empty: none", "")

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @field_validator("data_dir")
    @classmethod
    def _whole_path(cls, value: Path) -> Path:
        return default_data_dir() if value == Path() else Path(os.path.abspath(value.expanduser()))

    @field_validator("ledger_url")
    @classmethod
    def _async_driver(cls, value: str, info: ValidationInfo) -> str:
        if not value and "data_dir" in info.data:
            return f"sqlite:///{info.data['data_dir'] / 'ledger.db'}"
        scheme, mark, rest = value.partition("://")
        drivers = {"sqlite": "sqlite", "postgres": "postgresql+asyncpg", "postgresql": "postgresql+asyncpg"}
        scheme = drivers.get(scheme, scheme)
        if not mark or scheme not in drivers.values():
            raise ValueError("not a URL of a database we know")
        return f"{scheme}://{rest}"

    @field_validator("llm_base_url", "decider_base_url", "embed_base_url", "rerank_base_url", "otlp_endpoint")
    @classmethod
    def _http_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("not a http:// or https:// address")
        return value.rstrip("/")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            if value:
                ZoneInfo(value)
        except (OSError, ValueError, KeyError):
            raise ValueError("no such time zone") from None
        return value

    @field_validator("consolidate_cron")
    @classmethod
    def _readable_cron(cls, value: str) -> str:
        try:
            if value:
                CronSim(value, datetime.now().astimezone())
        except CronSimError as error:
            raise ValueError(str(error).lower()) from None
        return value

    @model_validator(mode="before")
    @classmethod
    def _complete_models(cls, data: Any) -> Any:
        return {**data, **as_the_chats(data)} if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _belong_together(self) -> Settings:
        if self.embedder == "openai" and not self.embed_model:
            raise ValueError("embedder is 'openai' but embed_model is empty: name the embedding model")
        if self.embed_model and not self.embed_base_url and self.embedder in ("auto", "openai"):
            raise ValueError("embed_model is set but embed_base_url is empty: name the server's address")
        if bool(self.rerank_model) != bool(self.rerank_base_url):
            raise ValueError("rerank_model and rerank_base_url go together: set both, or neither")
        if self.debounce_most < self.debounce:
            raise ValueError("debounce_most is below debounce: raise it, or lower debounce")
        return self

    def utc_offset(self, at: datetime) -> int:
        """Minutes east of UTC, at this moment, where the person is."""
        zone = ZoneInfo(self.timezone) if self.timezone else None
        offset = at.astimezone(zone).utcoffset()
        return int(offset.total_seconds() // 60) if offset else 0

    def source(self, name: str) -> str:
        """Where a setting's value came from: `flag`, `environment`, a file's name …, or `default`."""
        return self._sources.get(name, "flag" if name in self.model_fields_set else "default")

    def describe(self) -> list[SettingRow]:
        """Every setting, in order, fit to be printed."""
        rows = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            shown = str(value) if not isinstance(value, SecretStr) else _masked(value.get_secret_value())
            if name == "ledger_url":
                shown = _without_password(shown)
            rows.append(SettingRow(name, shown, self.source(name), field.description or ""))
        return rows


def default_data_dir() -> Path:
    """`afterword` in the person's data folder, as the XDG base directory specification places it."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share") / "afterword"


def load_settings(**flags: Any) -> Settings:
    """Read the settings. `flags` go before everything else; those that are None count as not given.

    `config` names a TOML file, and `AFTERWORD_CONFIG` does. Raises `SettingsError`, in one sentence.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    config = given.pop("config", None)
    _refuse_unknown(given, "", "the call")
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    environment = _of_environment(EnvSettingsSource(Settings).env_vars, "the environment")
    dotenv_vars = DotEnvSettingsSource(Settings, env_file=".env").env_vars if Path(".env").is_file() else {}
    dotenv = _of_environment(dotenv_vars, ".env")
    config = config or environment.pop("config", None) or dotenv.pop("config", None)
    layers = [("flag", given), ("environment", environment), (".env", dotenv)]
    folder = next((layer["data_dir"] for _, layer in layers if layer.get("data_dir")), default_data_dir())
    layers.append(_toml(config, Path(folder)))
    for source, layer in layers:
        for name, value in layer.items():
            values.setdefault(name, value)
            sources.setdefault(name, source)
    outside = {**dotenv_vars, **EnvSettingsSource(Settings).env_vars}
    for name, (value, source) in of_other_tools(values, outside).items():
        values[name], sources[name] = value, source
    return _made(values, sources)


def _made(values: dict[str, Any], sources: dict[str, str]) -> Settings:
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise SettingsError(_sentence(error.errors(include_url=False)[0], sources)) from None
    for name in ("decider_base_url", "decider_model", "decider_api_key", "embed_base_url", "embed_api_key"):
        if name not in values and getattr(settings, name) not in ("", SecretStr("")):
            sources[name] = "as the chat's"
    settings._sources = dict.fromkeys(Settings.model_fields, "default") | sources
    return settings


def _sentence(error: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    reason = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return reason
    name = str(error["loc"][0])
    field = Settings.model_fields[name]
    secret = field.annotation is SecretStr
    shown = "" if secret else f" is {str(error['input'])[:80]!r}"
    source = sources.get(name, "default")
    return f"{name}{shown} ({source}): {reason[:1].lower()}{reason[1:]}; give {field.description}"


def _refuse_unknown(names: Mapping[str, Any], prefix: str, where: str) -> None:
    known = Settings.model_fields
    for name in names:
        if name not in known and name != "config":
            near = get_close_matches(name, known, 1, 0.5)
            advice = f"did you mean {prefix}{near[0]}?" if not prefix else f"did you mean {(prefix + near[0]).upper()}?"
            shown = (prefix + name).upper() if prefix else name
            raise SettingsError(f"{shown} in {where} is no setting: {advice if near else 'remove it'}")


def _of_environment(variables: Mapping[str, str | None], where: str) -> dict[str, Any]:
    """The `AFTERWORD_*` among the variables. An empty one is a value for text and counts as unset for the rest."""
    found = {name.removeprefix(PREFIX): value for name, value in variables.items() if name.startswith(PREFIX)}
    found = {name: v for name, v in found.items() if name not in OF_SCRIPTS and not name.startswith("test_")}
    _refuse_unknown(found, PREFIX, where)
    return {name: value for name, value in found.items() if value or (value == "" and _takes_empty(name))}


def _takes_empty(name: str) -> bool:
    return name in Settings.model_fields and Settings.model_fields[name].annotation in (str, SecretStr)


def _toml(config: str | os.PathLike[str] | None, data_dir: Path) -> tuple[str, dict[str, Any]]:
    if config is not None and not Path(config).expanduser().is_file():
        raise SettingsError(f"config is {str(config)!r}: there is no such file; name a TOML file or leave it out")
    places = [Path(config).expanduser()] if config else [Path("afterword.toml"), data_dir / "afterword.toml"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return ("", {})
    try:
        values = dict(TomlConfigSettingsSource(Settings, path).toml_data)
    except (TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SettingsError(f"{path} can't be read: {error}; mend or move the file") from None
    _refuse_unknown(values, "", str(path))
    return (str(path), values)


def _masked(secret: str) -> str:
    return f"…{secret[-4:]}" if len(secret) > 12 else ("(set)" if secret else "")


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.rpartition(':')[0]}:…@{tail}" if at and head.count(":") > 1 else url
