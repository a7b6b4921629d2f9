"""The scripts: what they pass on, what they refuse, and that a second start does nothing. Nothing is installed here."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import budgets, debian, environment, locks, words

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["start", "local", "test"]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, **env}, cwd="/", capture_output=True, text=True, check=False, timeout=30
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """An environment that its stamp says to be complete, with commands that print what they are given."""
    folder = tmp_path / "finished"
    executable(folder / "bin" / "python", '#!/bin/sh\necho "python $*"\nenv\n')
    executable(folder / "bin" / "afterword", '#!/bin/sh\necho "afterword $*"\n')
    stamp = environment.Stamp.read(folder)
    stamp.digests = environment.wanted(PARTS)
    stamp.write(folder)
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the environment was made to install: a stand-in for uv and pip."""
    calls: list[str] = []
    monkeypatch.setattr(environment.Installer, "make", lambda self: (tmp_path / "new" / "bin").mkdir(parents=True))
    monkeypatch.setattr(environment.Installer, "install", lambda self, part: calls.append(part))
    monkeypatch.setattr(environment.Installer, "install_project", lambda self: calls.append("project"))
    monkeypatch.setattr("os.path.realpath", lambda path: sys.executable)
    return calls


def test_start_passes_every_option_to_serve(finished: Path) -> None:
    done = run([str(ROOT / "scripts/start"), "--port", "8123", "--data-dir", "a b"], AFTERWORD_ENV=str(finished))
    assert done.stdout == "afterword serve --port 8123 --data-dir a b\n", done.stderr


def test_the_tests_do_not_see_what_a_person_has_set_for_their_server(finished: Path, tmp_path: Path) -> None:
    for name in ("chromium", "apt-get", "sudo"):
        executable(tmp_path / "bin" / name, "#!/bin/sh\nexit 1\n")
    given = {"OPENAI_API_KEY": "secret", "AFTERWORD_PORT": "1", "AFTERWORD_ARTEFACTS": str(tmp_path / "pictures")}
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = run([str(ROOT / "scripts/test"), "-k", "x y"], AFTERWORD_ENV=str(finished), PATH=path, **given)
    first, *rest = done.stdout.splitlines()
    assert first == "python -m pytest -k x y"
    assert f"AFTERWORD_ARTEFACTS={tmp_path / 'pictures'}" in rest
    assert not [line for line in rest if line.startswith(("OPENAI_API_KEY", "AFTERWORD_PORT"))]
    assert (tmp_path / "pictures").is_dir()


def test_bench_without_a_name_lists_the_names() -> None:
    done = run([str(ROOT / "scripts/bench")])
    assert done.returncode == 2
    assert "  reply" in done.stderr.splitlines()


def test_an_environment_is_made_once_and_then_left_alone(tmp_path: Path, installed: list[str]) -> None:
    environment.bring_up_to_date(tmp_path / "new", PARTS)
    assert installed == [*PARTS, "project"]
    environment.bring_up_to_date(tmp_path / "new", PARTS)
    assert installed == [*PARTS, "project"]


def test_a_part_is_installed_again_when_its_lock_has_changed(
    tmp_path: Path, installed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.bring_up_to_date(tmp_path / "new", PARTS)
    goal = environment.wanted(PARTS) | {"test": "another"}
    monkeypatch.setattr(environment, "wanted", lambda parts: goal)
    monkeypatch.setattr(environment.Installer, "make", lambda self: None)
    environment.bring_up_to_date(tmp_path / "new", PARTS)
    assert installed == [*PARTS, "project", "test"]


def test_the_start_goes_on_without_the_bundled_embedder(
    tmp_path: Path, installed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def install(self: environment.Installer, part: str) -> None:
        if part == "local":
            raise environment.Failed("no wheel for this platform")
        installed.append(part)

    monkeypatch.setattr(environment.Installer, "install", install)
    assert environment.main(str(tmp_path / "new"), *PARTS) == 0
    assert "no bundled embedder here" in capsys.readouterr().err
    assert "local" not in environment.Stamp.read(tmp_path / "new").digests


def test_a_moved_environment_is_not_trusted(finished: Path) -> None:
    assert environment.Stamp.read(finished).digests
    moved = finished.with_name("moved")
    finished.rename(moved)
    assert not environment.Stamp.read(moved).digests


def test_a_folder_that_is_no_environment_is_never_cleared(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(environment.Failed, match="is no environment"):
        environment.Installer(tmp_path).make()
    assert (tmp_path / "letters.txt").read_text() == "mine"


def test_without_root_or_sudo_the_one_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "apt-get", "#!/bin/sh\nexit 9\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(debian.Missing, match=r"sudo apt-get install -y --no-install-recommends python3-venv$"):
        debian.install(["python3-venv"], "Python's venv")


@pytest.mark.parametrize("part", list(locks.PARTS))
def test_every_pin_of_a_lock_has_a_hash_and_no_lock_names_an_index(part: str) -> None:
    text = (ROOT / "locks" / f"{part}.txt").read_text()
    assert locks.blocks(text)
    assert [locks.pin(block) for block in locks.blocks(text) if "--hash=sha256:" not in block] == []
    assert "://" not in text


def test_a_change_of_what_is_required_makes_the_locks_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "locks", tmp_path / "locks")
    text = (ROOT / "pyproject.toml").read_text()
    monkeypatch.setattr(locks, "ROOT", tmp_path)
    monkeypatch.setattr(locks, "LOCKS", tmp_path / "locks")
    (tmp_path / "pyproject.toml").write_text(text.replace("line-length = 120", "line-length = 100"))
    assert locks.stale() == []
    (tmp_path / "pyproject.toml").write_text(text.replace('"openai>=', '"openai>'))
    assert locks.stale() == list(locks.PARTS)


def nesting(source: str) -> int:
    return budgets.nesting(ast.parse(source).body[0])


def test_nesting_counts_blocks_within_blocks_but_no_elif_and_no_inner_function() -> None:
    assert nesting("def f():\n for a in b:\n  while c:\n   with d:\n    if e: pass") == 3
    assert nesting("def f():\n if a: pass\n elif b: pass\n elif c: pass\n else: pass") == 1
    assert nesting("def f():\n if a: pass\n else:\n  if b: pass\n  c()") == 2
    assert nesting("def f():\n try: pass\n except E:\n  if a: pass") == 2
    assert nesting("def f():\n if a:\n  def g():\n   if b: pass") == 1


def test_a_file_over_its_budget_is_named_unless_its_exception_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "ROOT", tmp_path)
    body = "\n".join("    x = 1" for _ in range(50))
    executable(tmp_path / "src" / "long.py", f'class A:\n  def f(self):\n    """Two\n    lines."""\n{body}\n')
    rules = {"limits": {"file_lines": 400, "function_lines": 40, "nesting": 3}}
    assert list(budgets.too_large(rules)) == [
        "src/long.py:2: function_lines 51, the limit is 40 (src/long.py:A.f)",
    ]
    lifted = {"where": "src/long.py:A.f", "budget": "function_lines", "limit": 60, "reason": "a table"}
    assert list(budgets.too_large(rules | {"exceptions": [lifted]})) == []
    unused = lifted | {"budget": "nesting"}
    assert "not needed any more" in list(budgets.too_large(rules | {"exceptions": [unused]}))[-1]


def test_a_heavy_module_is_seen_wherever_it_is_loaded_from() -> None:
    assert budgets.loaded("import email.message", ["email", "sqlite3"]) == ["email"]
    assert budgets.loaded("import no_such_module", [])[0].startswith("an error (ModuleNotFoundError")


def test_a_machines_own_path_is_found_but_not_a_route_of_the_web(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "ROOT", tmp_path)
    note = tmp_path / "note.md"
    note.write_text(f"see\nin {'/'.join(['', 'work', 'main'])} and {'py' + 'pi.org'}")
    found = words.findings(note)
    assert [line.rsplit(":", 1)[0] for line in found] == [
        "note.md:2: a path of one machine",
        "note.md:2: a package index",
    ]
    note.write_text("GET http://localhost/work/ then /api/jobs")
    assert words.findings(note) == []


@pytest.mark.parametrize(("check", "tests", "code"), [(3, 0, 3), (0, 1, 1), (0, 0, 0)])
def test_ci_ends_at_the_first_failure_and_prints_the_closing_line_last(
    tmp_path: Path, check: int, tests: int, code: int
) -> None:
    ran = tmp_path / "ran"
    executable(tmp_path / "scripts" / "check", f"#!/bin/sh\necho check >>{ran}\nexit {check}\n")
    closing = "12 passed, 1 skipped in 3.21s"
    executable(
        tmp_path / "scripts" / "test", f"#!/bin/sh\necho test >>{ran}\necho '{closing}'\necho late >&2\nexit {tests}\n"
    )
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    done = run(["bash", str(tmp_path / ".ci" / "run")], CI="true")
    assert done.returncode == code
    assert ran.read_text().split() == (["check"] if check else ["check", "test"])
    assert check or done.stdout.splitlines()[-1] == closing


def test_the_stamp_is_readable_json(finished: Path) -> None:
    kept = json.loads((finished / "afterword-stamp.json").read_text())
    assert set(kept["digests"]) == {*PARTS, "project"}
