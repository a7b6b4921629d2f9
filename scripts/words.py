"""Looks through every file of the repository for what belongs to one machine: its paths, its package index.

The patterns are written so that this file does not match itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~>])/(?:wor[k]|roo[t])/|/opt/(?:pyp[i]|wheel[s])"),
    "a package index": re.compile(r"pypi\.(?:or[g]|\w+/)|pythonhoste[d]|--(?:extra-)?index-ur[l][ =]|--find-link[s]"),
    "a conflict marker": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}


def files() -> list[Path]:
    """The files that git tracks or would track. Raises `CalledProcessError` outside a git checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := ROOT / name).is_file()]


def findings(path: Path) -> list[str]:
    """What a file holds that it must not; nothing for a file that is not text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return []
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {what}: {match.group().strip()}"
        for what, pattern in FORBIDDEN.items()
        for match in pattern.finditer(text)
    ]


def main() -> int:
    try:
        found = [line for path in files() for line in findings(path)]
    except subprocess.CalledProcessError as error:
        found = [error.stderr.strip()]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
