"""CPU work off the event loop."""

from __future__ import annotations

import asyncio
import sys

import anyio
import pytest

pytestmark = pytest.mark.anyio

HELPED = """
import asyncio
from afterword.offload import Pools

async def main():
    print(await Pools().process(len, "four"), flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_a_killed_process_leaves_no_helper_behind(tmp_path: object) -> None:
    script = anyio.Path(str(tmp_path)) / "afterword"  # named as our command, which may be imported again
    await script.write_text(HELPED)
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    with anyio.fail_after(60):
        assert await process.stdout.readline() == b"4\n"
        process.kill()
        assert await process.stdout.read() == b"", "the pipe ends when its last holder has"
        await process.wait()
