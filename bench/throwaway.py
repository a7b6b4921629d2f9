"""Packages that are measured beside ours and are none of our dependencies: each in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path


def environment(folder: Path, package: str) -> Path:
    """A new virtual environment in `folder` with the package's newest release; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True, stdout=sys.stderr)
    return python
