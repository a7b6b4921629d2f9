# ruff: noqa: T201
"""The library in ten lines: for scripts and notebooks."""

# region: main
from afterword import Memory


def script() -> None:
    with Memory() as memory:
        memory.add("My sister Ann moved to Oslo.", user_id="me")
        for hit in memory.search("Where does Ann live?", user_id="me"):
            print(f"{hit.score:.2f}  {hit.kind}  {hit.text}")
        for piece in memory.chat("What may I cook for her?", user_id="me"):
            print(piece, end="")


if __name__ == "__main__":
    script()
# endregion
