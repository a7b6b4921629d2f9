"""Makes the lock files from pyproject.toml, or checks that they were made from it.

    ./scripts/lock              makes them anew; a pin that still fits is kept; `--upgrade` takes the newest
    python -m scripts.locks --check    says whether they are stale, offline

One resolution for all: each file is constrained by those before it, and lists only what it adds to them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "locks"
PYPROJECT = "pyproject.toml"
PARTS = {
    "start": [PYPROJECT, "--extra", "page", "--extra", "milvus", "--extra", "postgres", "--group", "build"],
    "local": [PYPROJECT, "--extra", "local"],
    "test": [PYPROJECT, "--extra", "traces", "--group", "test"],
    "check": ["--group", "check"],
    "lock": ["--group", "lock"],
}
COMMON = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--quiet"]
MARK = "# pyproject "


def digest() -> str:
    """A digest of all that pyproject.toml says about requirements."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = tables["project"]
    said = [project["requires-python"], project["dependencies"], project["optional-dependencies"]]
    text = json.dumps([*said, tables["dependency-groups"], PARTS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def blocks(lock: str) -> list[str]:
    """A lock file's requirements, each with its hashes and comments."""
    return re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]


def pin(block: str) -> str:
    """The first line of a block: name, version and marker."""
    return block.splitlines()[0].rstrip(" \\")


def make(part: str, uv: str, options: list[str]) -> None:
    """Makes one lock file. What the files before it have already is left out."""
    target = LOCKS / f"{part}.txt"
    draft = target.with_suffix(".new")
    before = [LOCKS / f"{other}.txt" for other in list(PARTS)[: list(PARTS).index(part)]]
    if target.exists():
        draft.write_text(target.read_text())
    constraints = [word for file in before for word in ("-c", str(file))]
    command = [uv, "pip", "compile", *PARTS[part], *constraints, *COMMON, *options, "-o", str(draft)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    known = {pin(block) for file in before for block in blocks(file.read_text())}
    found = [block for block in blocks(draft.read_text()) if pin(block) not in known]
    draft.unlink()
    target.write_text(f"# Made by ./scripts/lock; do not edit.\n{MARK}{digest()}\n{''.join(found)}")


def stale() -> list[str]:
    """The lock files that were made from another pyproject.toml, or are not there."""
    line = f"{MARK}{digest()}\n"
    files = {part: LOCKS / f"{part}.txt" for part in PARTS}
    return [part for part, file in files.items() if not file.exists() or line not in file.read_text()]


def main() -> int:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--check", action="store_true")
    reader.add_argument("--uv", default="uv")
    arguments, options = reader.parse_known_args()
    if arguments.check:
        found = stale()
        for part in found:
            print(f"locks/{part}.txt is not made from this pyproject.toml: run ./scripts/lock")
        return 1 if found else 0
    for part in PARTS:
        make(part, arguments.uv, options)
        print(f"locks/{part}.txt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
