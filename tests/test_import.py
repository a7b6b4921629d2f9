"""`afterword import` and what it is given: hostile lines, devices, bombs, paths. Bad lines are named, nothing breaks."""

from __future__ import annotations

import gzip
import json
import os
import tarfile
import threading
from pathlib import Path

import pytest

from afterword.commands import transcript
from afterword.commands.transcript import read_transcript
from afterword.errors import InvalidInput
from afterword.settings import Settings

GOOD = {"text": "I have a cat.", "chat_id": "c"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", timezone="UTC")


def written(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"text": ' * 50_000, "nested too deeply"),
        (b'{"text": "x", "metadata": ' + b'{"a": ' * 3000 + b"1" + b"}" * 3000 + b"}", "nested too deeply"),
        (b"1" * 5000, "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b'{"text": "x", "path": "../../etc/passwd"}', "is no field"),
        (b'{"text": "x", "said_at": "9999-12-31T23:59:59Z"}', "said_at"),
        (b'{"text": "x", "utc_offset": 1e999}', "utc_offset"),
        (b'{"text": "x", "utc_offset": true, "said_at": "now"}', "said_at"),
        (b'{"text": "x", "chat_id": "a\\u0000b"}', "control character"),
        (b'{"text": "x", "role": "system"}', "role"),
        (b'{"text": "   "}', "empty"),
        (b'{"text": ["x"]}', "must be text"),
        (b'{"text": "x", "metadata": {"a": "' + b"x" * 20_000 + b'"}}', "metadata has"),
        (b'{"text": "x", "chat_id": {"$ne": 1}}', "must be text"),
        (b'{"text": "' + b"x" * 100_001 + b'"}', "characters"),
    ],
)
def test_a_bad_line_is_named_and_left_out(tmp_path: Path, settings: Settings, line: bytes, says: str) -> None:
    path = written(tmp_path / "chats.jsonl", json.dumps(GOOD).encode(), line, json.dumps(GOOD).encode())
    found = read_transcript(path, settings)
    ((number, reason),) = found.bad
    assert (number, len(found.turns)) == (2, 2)
    assert says in reason, reason


def test_ids_that_look_like_paths_are_only_names(tmp_path: Path, settings: Settings) -> None:
    line = json.dumps({**GOOD, "chat_id": "../../../etc/passwd", "turn_id": "/dev/sda", "speaker": "..\\.."}).encode()
    found = read_transcript(written(tmp_path / "chats.jsonl", line), settings)
    assert [(turn.chat_id, turn.turn_id) for turn in found.turns] == [("../../../etc/passwd", "/dev/sda")]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/urandom", "/", "/proc"])
def test_a_device_or_a_folder_is_refused_at_once(settings: Settings, path: str) -> None:
    with pytest.raises(InvalidInput, match="is no file"):
        read_transcript(Path(path), settings)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.jsonl can't be read"):
        read_transcript(tmp_path / "nowhere.jsonl", settings)


def test_a_pipe_is_read(tmp_path: Path, settings: Settings) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(json.dumps(GOOD).encode() + b"\n"))
    writer.start()
    assert len(read_transcript(pipe, settings).turns) == 1
    writer.join()


def test_a_bomb_is_not_unpacked(tmp_path: Path, settings: Settings) -> None:
    bomb = tmp_path / "bomb.jsonl.gz"
    bomb.write_bytes(gzip.compress(b"x" * 10_000_000))
    with pytest.raises(InvalidInput, match=r"is compressed \(gzip\): unpack it first"):
        read_transcript(bomb, settings)
    with tarfile.open(tmp_path / "a.tar.xz", "w:xz") as archive:
        archive.add(bomb, "../../evil")
    with pytest.raises(InvalidInput, match=r"is compressed \(xz\)"):
        read_transcript(tmp_path / "a.tar.xz", settings)


def test_a_line_without_an_end_is_not_read_to_its_end(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.truncate(10 * transcript.LINE_LIMIT)  # zeros, on no disk
    with pytest.raises(InvalidInput, match=r"line 1 of .* is over 1 MB"):
        read_transcript(path, settings)
    monkeypatch.setattr(transcript, "LINES_LIMIT", 3)
    many = written(tmp_path / "many.jsonl", *[json.dumps(GOOD).encode()] * 4)
    with pytest.raises(InvalidInput, match="over 3 lines: split it"):
        read_transcript(many, settings)
