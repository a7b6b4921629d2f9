# ruff: noqa: T201
"""The library in ten lines: native."""

# region: main
import asyncio

from afterword import open_memory


async def main() -> None:
    async with open_memory() as memory:
        await memory.add("My sister Ann moved to Oslo.", user_id="me")  # waits for what it becomes
        ticket = await memory.submit("She can't eat nuts.", user_id="me")  # durable, and back at once
        for hit in await memory.search("Where does Ann live?", user_id="me"):
            print(f"{hit.score:.2f}  {hit.kind}  {hit.text}")
        async for piece in await memory.chat("What may I cook for her?", user_id="me"):
            print(piece, end="")
        print(await ticket.ids(timeout=60))  # the memories that she became


if __name__ == "__main__":
    asyncio.run(main())
# endregion
