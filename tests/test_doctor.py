"""The doctor finds what is wrong and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from afterword.doctor import Check, diagnose
from afterword.settings import Settings
from afterword.testing import FakeOpenAI
from afterword.wiring import open_memory

pytestmark = pytest.mark.anyio


def named(checks: list[Check], name: str) -> Check:
    found = [check for check in checks if check.name == name]
    assert found, [check.name for check in checks]
    return next((check for check in found if check.state != "ok"), found[0])


async def test_a_fresh_machine_is_healthy_and_told_how_to_add_an_llm(settings: Settings) -> None:
    checks = await diagnose(settings)
    assert [check for check in checks if check.state == "bad"] == []
    assert "OPENAI_API_KEY" in named(checks, "llm").fix
    assert "will be made" in named(checks, "data folder").text
    assert not settings.data_dir.exists()


async def test_a_model_that_is_there_is_ok_and_no_words_are_sent(settings: Settings) -> None:
    async with FakeOpenAI(models=("small", "large")) as server:
        chosen = settings.model_copy(update={"llm_base_url": server.base_url, "llm_model": "large"})
        assert named(await diagnose(chosen), "llm") == Check("llm", "ok", "large answers")
        assert {received.request for received in server.received} == {"models"}


async def test_a_model_that_is_not_there_names_those_that_are(settings: Settings) -> None:
    async with FakeOpenAI(models=("small", "large")) as server:
        update = {"llm_base_url": server.base_url, "llm_model": "large", "decider_model": "tiny"}
        found = named(await diagnose(settings.model_copy(update=update)), "decider")
    assert found.state == "bad"
    assert "AFTERWORD_DECIDER_MODEL" in found.fix
    assert "small, large" in found.fix


async def test_an_llm_that_is_away_is_bad_with_its_fix(settings: Settings) -> None:
    update = {"llm_base_url": "http://127.0.0.1:9/v1", "llm_model": "m"}
    found = named(await diagnose(settings.model_copy(update=update)), "llm")
    assert found.state == "bad"
    assert found.fix


async def test_embeddings_are_measured(settings: Settings) -> None:
    async with FakeOpenAI(dimensions=32) as server:
        update = {"embedder": "openai", "embed_base_url": server.base_url, "embed_model": "fake-embed"}
        found = named(await diagnose(settings.model_copy(update=update)), "embedder")
    assert found.state == "ok", found
    assert "32 dimensions" in found.text


async def test_a_damaged_ledger_is_found(settings: Settings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "ledger.db").write_bytes(b"this is no database, however long it may be" * 100)
    found = named(await diagnose(settings), "ledger")
    assert found.state == "bad"
    assert "backup" in found.fix


async def test_a_ledger_in_use_is_sound_and_its_jobs_are_counted(settings: Settings) -> None:
    async with open_memory(settings, run_worker=False) as memory:
        await memory.submit("I moved to Oslo.", "ann")
        checks = await diagnose(settings)
    assert "sound" in named(checks, "ledger").text
    assert "1 waiting" in named(checks, "jobs").text


async def test_a_folder_that_cannot_be_written_is_bad(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    chosen = settings.model_copy(update={"data_dir": tmp_path / "file" / "data"})
    found = named(await diagnose(chosen), "data folder")
    assert (found.state, bool(found.fix)) == ("bad", True)


async def test_every_deadline_and_the_way_of_retries_are_told(settings: Settings) -> None:
    checks = await diagnose(settings)
    told = named(checks, "deadlines").text
    for name in type(settings).model_fields:
        if name.endswith("_deadline"):
            assert f"{name.removesuffix('_deadline').replace('_', ' ')} {getattr(settings, name):g} s" in told
    assert "5 attempts" in named(checks, "retries").text
    assert "Retry-After" in named(checks, "retries").text
    assert "10 attempts lost to answers of no use" in named(checks, "retries").text


async def test_settings_that_contradict_each_other_are_told(settings: Settings) -> None:
    update = {"recall_deadline": 0.5, "query_embed_deadline": 0.6, "host": "0.0.0.0"}
    checks = await diagnose(settings.model_copy(update=update))
    assert named(checks, "deadlines").state == "warn"
    assert "AFTERWORD_TOKEN" in named(checks, "server").fix
