"""Settings: who goes before whom, and errors that name the fix."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from afterword import open_memory
from afterword.errors import SettingsError
from afterword.providers import DEEPSEEK_URL, OPENAI_URL, SILICONFLOW_URL
from afterword.settings import Settings, load_settings

OTHERS = ("OPENAI_", "DEEPSEEK_", "SILICONFLOW_", "AFTERWORD_")


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, an empty home, and none of the variables that settings look at."""
    for name in list(os.environ):
        if name.upper().startswith(OTHERS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def secret(settings: Settings, name: str) -> str:
    value: str = getattr(settings, name).get_secret_value()
    return value


def test_without_anything_the_data_is_in_the_persons_data_folder(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.data_dir == tmp_path / "home" / "afterword"
    assert settings.ledger_url == f"sqlite:///{tmp_path}/home/afterword/ledger.db"
    assert (settings.host, settings.port, settings.llm_base_url) == ("127.0.0.1", 7860, "")


def test_flags_go_before_the_environment_before_dotenv_before_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("afterword.toml").write_text('user = "toml"\ntenant = "toml"\nhost = "::1"\nport = 1\n')
    Path(".env").write_text("AFTERWORD_USER=dotenv\nAFTERWORD_TENANT=dotenv\nAFTERWORD_HOST=127.0.0.2\n")
    monkeypatch.setenv("AFTERWORD_USER", "environment")
    monkeypatch.setenv("AFTERWORD_TENANT", "environment")
    settings = load_settings(user="flag", tenant=None)
    assert (settings.user, settings.tenant, settings.host, settings.port) == ("flag", "environment", "127.0.0.2", 1)
    assert [settings.source(name) for name in ("user", "tenant", "host", "port", "language")] == [
        "flag",
        "environment",
        ".env",
        "afterword.toml",
        "default",
    ]


def test_the_toml_file_may_be_named_or_lie_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "afterword.toml").write_text('user = "of the data folder"')
    assert load_settings(data_dir=data).user == "of the data folder"
    (tmp_path / "named.toml").write_text('user = "named"')
    monkeypatch.setenv("AFTERWORD_CONFIG", str(tmp_path / "named.toml"))
    assert load_settings(data_dir=data).user == "named"
    with pytest.raises(SettingsError, match="no such file"):
        load_settings(config=tmp_path / "lacking.toml")


@pytest.mark.parametrize("place", ["environment", "dotenv", "toml", "flag"])
def test_an_unknown_name_is_an_error_that_suggests_the_nearest(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {}
    if place == "environment":
        monkeypatch.setenv("AFTERWORD_LLM_MODLE", "x")
    elif place == "dotenv":
        Path(".env").write_text("AFTERWORD_LLM_MODLE=x\n")
    elif place == "toml":
        Path("afterword.toml").write_text('llm_modle = "x"')
    else:
        flags = {"llm_modle": "x"}
    with pytest.raises(SettingsError, match=r"(?i)llm_modle .*did you mean (AFTERWORD_)?llm_model\?"):
        load_settings(**flags)


def test_variables_of_the_scripts_are_no_settings_and_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERWORD_PYTHON", "/usr/bin/python3")
    monkeypatch.setenv("AFTERWORD_TEST_POSTGRES", "1")
    assert load_settings().user == "me"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"port": "abc"}, r"port is 'abc' \(flag\).*give a port from 0"),
        ({"timezone": "Mars/Olympus"}, "timezone is 'Mars/Olympus'.*IANA"),
        ({"timezone": "../../etc/passwd"}, "no such time zone"),
        ({"consolidate_cron": "every day"}, "cron expression"),
        ({"llm_base_url": "localhost:11434"}, "http:// or https://"),
        ({"ledger_url": "mysql://x/y"}, "sqlite:// or postgresql://"),
        ({"recall_deadline": 0}, "greater than 0"),
        ({"recall_deadline": float("nan")}, "recall_deadline"),
        ({"language": "fr"}, "'auto', 'en' or 'zh'"),
        ({"embedder": "openai"}, "embed_model is empty"),
        ({"embed_model": "m"}, "embed_base_url is empty"),
        ({"debounce": 30}, "debounce_most is below debounce"),
    ],
)
def test_a_wrong_value_is_one_sentence_with_the_setting_and_the_fix(flags: dict[str, object], says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load_settings(**flags)
    assert "\n" not in str(caught.value)


def test_an_empty_variable_is_unset_for_numbers_and_a_value_for_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERWORD_PORT", "")
    monkeypatch.setenv("AFTERWORD_CONSOLIDATE_CRON", "")
    settings = load_settings()
    assert (settings.port, settings.consolidate_cron) == (7860, "")


def test_broken_toml_names_the_file() -> None:
    Path("afterword.toml").write_text("user = ")
    with pytest.raises(SettingsError, match=r"afterword\.toml can't be read"):
        load_settings()


def test_settings_are_frozen_and_made_directly_they_read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERWORD_USER", "environment")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-environment")
    settings = Settings()
    assert (settings.user, settings.llm_base_url) == ("me", "")
    with pytest.raises(ValidationError):
        settings.user = "other"


# ── other tools' variables ─────────────────────────────────────────────────────────────────────────────────────────


def test_openai_variables_set_the_llm_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    settings = load_settings()
    assert (settings.llm_base_url, secret(settings, "llm_api_key")) == (OPENAI_URL, "sk-openai")
    assert settings.llm_model
    assert (settings.embed_base_url, secret(settings, "embed_api_key")) == ("", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1234/v1/")
    monkeypatch.setenv("OPENAI_MODEL", "local-model")
    settings = load_settings()
    assert (settings.llm_base_url, settings.llm_model) == ("http://127.0.0.1:1234/v1", "local-model")
    assert settings.source("llm_model") == "OPENAI_API_KEY"


def test_deepseek_and_siliconflow_keys_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-deepseek")
    settings = load_settings()
    assert (settings.llm_base_url, settings.llm_model) == (DEEPSEEK_URL, "deepseek-chat")
    assert settings.embed_model == ""
    monkeypatch.setenv("SILICONFLOW_API_KEY", "sk-silicon")
    settings = load_settings()
    assert (settings.llm_base_url, secret(settings, "llm_api_key")) == (DEEPSEEK_URL, "sk-deepseek")
    assert (settings.embed_base_url, settings.embed_model) == (SILICONFLOW_URL, "BAAI/bge-m3")
    assert secret(settings, "embed_api_key") == "sk-silicon"


def test_keys_in_dotenv_count_as_in_the_environment() -> None:
    Path(".env").write_text("DEEPSEEK_API_KEY=sk-deepseek\nUNRELATED=1\n")
    assert load_settings().llm_base_url == DEEPSEEK_URL


def test_a_key_with_no_address_is_for_openai() -> None:
    settings = load_settings(llm_api_key="sk-mine")
    assert (settings.llm_base_url, secret(settings, "llm_api_key")) == (OPENAI_URL, "sk-mine")
    assert load_settings(embed_api_key="sk-e", embed_model="m").embed_base_url == OPENAI_URL


def test_a_key_is_never_given_to_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("SILICONFLOW_API_KEY", "sk-silicon")
    settings = load_settings(
        llm_base_url="http://127.0.0.1:9/v1",
        decider_base_url="https://decider.example/v1",
        embed_base_url="https://embed.example/v1",
        embed_model="m",
    )
    for name in ("llm_api_key", "decider_api_key", "embed_api_key"):
        assert secret(settings, name) == "", name


def test_the_decider_is_the_chats_llm_where_nothing_else_is_said() -> None:
    chat = {"llm_base_url": "http://127.0.0.1:9/v1", "llm_api_key": "sk-chat", "llm_model": "big"}
    same = load_settings(**chat)
    assert (same.decider_base_url, same.decider_model) == ("http://127.0.0.1:9/v1", "big")
    smaller = load_settings(**chat, decider_model="small")
    assert (smaller.decider_model, secret(smaller, "decider_api_key")) == ("small", "sk-chat")


# ── showing ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_shown_holds_no_secret() -> None:
    settings = load_settings(
        llm_api_key="sk-very-secret-key", token="hush", ledger_url="postgresql://ann:hunter2@db/x", milvus_token="m:tok"
    )
    shown = "\n".join(f"{row.name} {row.value}" for row in settings.describe()) + repr(settings)
    for hidden in ("sk-very", "hush", "m:tok"):
        assert hidden not in shown
    assert "hunter2" not in "\n".join(row.value for row in settings.describe())
    assert {row.source for row in load_settings().describe()} == {"default"}
    assert {row.name for row in settings.describe()} == set(Settings.model_fields)
    assert all(row.help for row in settings.describe())


def test_an_error_about_a_secret_does_not_show_it() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(token=["hush-hush"])
    assert "hush-hush" not in str(caught.value)


def test_the_offset_is_that_of_the_time_zone_on_that_day() -> None:
    settings = Settings(timezone="Europe/Oslo")
    assert settings.utc_offset(datetime(2026, 1, 1, tzinfo=UTC)) == 60
    assert settings.utc_offset(datetime(2026, 7, 1, tzinfo=UTC)) == 120


@pytest.mark.anyio
async def test_the_name_of_an_embedder_is_a_setting_and_settings_come_one_way(tmp_path: Path) -> None:
    async with open_memory(data_dir=tmp_path, embedder="none", llm_model="") as memory:
        assert (await memory.status()).embedder is None
    with pytest.raises(SettingsError, match="give settings or embedder, not both"):
        async with open_memory(Settings(data_dir=tmp_path), embedder="none"):
            pass
