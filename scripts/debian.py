"""What Debian's own packages must supply: Python's venv, and a browser for the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CJK_FONTS = ("*CJK*", "*wqy*", "*DroidSansFallback*")


class Missing(Exception):
    """Something cannot be installed from here; the text names the one command that does it."""


def say(text: str) -> None:
    print(f"afterword: {text}", file=sys.stderr, flush=True)


def install(packages: list[str], purpose: str) -> None:
    """Installs Debian packages as root, or by a sudo that asks for no password.

    Raises `Missing` where neither is possible or apt-get fails.
    """
    command = f"sudo apt-get install -y --no-install-recommends {' '.join(packages)}"
    prefix = _root_prefix()
    if not shutil.which("apt-get"):
        raise Missing(f"{purpose} is missing. Install it with this system's package manager (Debian: {command})")
    if prefix is None:
        raise Missing(f"{purpose} is missing. Run once: {command}")
    say(f"installing {purpose} (apt-get install {' '.join(packages)})")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    # A repository of a third party that is away fails the update; whether it mattered shows in the install.
    _run([*apt, "update"])
    done = _run([*apt, "install", "-y", "--no-install-recommends", *packages])
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise Missing(f"apt-get could not install {purpose}. See its message above, then run: {command}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )


def _root_prefix() -> list[str] | None:
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    ):
        return ["sudo", "-n"]
    return None


def browser() -> str | None:
    """The path of a browser that the tests can drive, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def cjk_font() -> bool:
    """Whether Chinese text in a screenshot will be text rather than boxes."""
    return any(next(Path("/usr/share/fonts").rglob(pattern), None) for pattern in CJK_FONTS)


def install_browser() -> None:
    """Installs the browser and the font that are not there yet. Raises `Missing` if there is no browser after it."""
    wanted = ([] if browser() else ["chromium"]) + ([] if cjk_font() else ["fonts-noto-cjk"])
    try:
        if wanted:
            install(wanted, "the browser for the page's tests" if "chromium" in wanted else "a font for Chinese")
    except Missing as error:
        if "chromium" in wanted:
            raise
        say(f"{error} (screenshots show boxes for Chinese until then)")


def main() -> int:
    try:
        install_browser()
    except Missing as error:
        say(str(error))
        if os.environ.get("CI"):
            return 1
        say("going on without: the tests that need a browser cannot run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
