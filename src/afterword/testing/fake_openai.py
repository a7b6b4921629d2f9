"""`python -m afterword.testing.fake_openai --port 8100`: the fake server as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from afterword.testing.openai_server import FakeOpenAI


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m afterword.testing.fake_openai", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--first-delay", type=float, default=0.0, help="seconds to a reply's first token")
    parser.add_argument("--gap", type=float, default=0.0, help="seconds between tokens")
    parser.add_argument("--complete-delay", type=float, default=0.0, help="seconds a background answer takes")
    parser.add_argument("--text", default=None, help="what every reply says (default: it echoes the message)")
    parser.add_argument("--dimensions", type=int, default=64, help="of embeddings")
    parser.add_argument("--api-key", default=None, help="refuse other keys")
    return parser.parse_args(argv)


async def run(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT. The first line on stdout is the base URL."""
    server = FakeOpenAI(api_key=arguments.api_key, dimensions=arguments.dimensions)
    server.always("chat", first_delay=arguments.first_delay, gap=arguments.gap, text=arguments.text)
    server.always("complete", first_delay=arguments.complete_delay)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start(arguments.port, arguments.host)
    sys.stdout.write(f"{server.base_url}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.aclose()


def main(argv: list[str] | None = None) -> None:
    asyncio.run(run(_arguments(argv)))


if __name__ == "__main__":
    main()
