"""Runs the checks in the environment, quick ones first; see `./scripts/check`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CODE = [folder for folder in ("src", "tests", "bench", "scripts", "docs") if (ROOT / folder).is_dir()]
SHELL = ["scripts/lib.sh", "scripts/start", "scripts/test", "scripts/check", "scripts/bench", "scripts/lock", ".ci/run"]


@dataclass(frozen=True)
class Check:
    """One check: its command, and what a person does when it fails."""

    name: str
    command: list[str]
    fix: str


def tool(name: str) -> str:
    return str(BIN / name)


def module(name: str) -> list[str]:
    return [sys.executable, "-m", f"scripts.{name}"]


CHECKS = [
    Check("shell", [tool("shellcheck"), "-x", "-P", "SCRIPTDIR", *SHELL], "mend what shellcheck names"),
    Check("words", module("words"), "take the machine's own path or host out of the file"),
    Check("locks", [*module("locks"), "--check"], "run ./scripts/lock and keep what it writes"),
    Check("format", [tool("ruff"), "format", "--check", *CODE], f"run {tool('ruff')} format {' '.join(CODE)}"),
    Check("lint", [tool("ruff"), "check", *CODE], f"run {tool('ruff')} check --fix {' '.join(CODE)}, mend the rest"),
    Check("budgets", module("budgets"), "split what is too large; exceptions: scripts/budgets.toml"),
    Check("imports", [tool("lint-imports"), "--no-cache"], "imports go down only: see .importlinter"),
    Check("dependencies", [tool("deptry"), "src"], "declare it in pyproject.toml, then run ./scripts/lock"),
    Check("types", [tool("mypy"), *CODE], "mend the types; mypy runs strict"),
]


def run(check: Check) -> bool:
    """Runs one check, shows its output where it fails, and says how it went."""
    begun = time.monotonic()
    settings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        check.command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    seconds = time.monotonic() - begun
    if done.returncode:
        print(done.stdout.strip())
    print(f"{check.name:14}{'FAILED' if done.returncode else 'ok':8}{seconds:5.1f} s", flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    unknown = set(names) - {check.name for check in CHECKS}
    if unknown:
        print(f"no such check: {' '.join(sorted(unknown))}; there are: {' '.join(check.name for check in CHECKS)}")
        return 2
    failed = [check for check in CHECKS if (not names or check.name in names) and not run(check)]
    for check in failed:
        print(f"{check.name} failed. {check.fix[0].upper()}{check.fix[1:]}. Alone: ./scripts/check {check.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
