"""The fakes, public: what the core asks of the world, played by parts that a test can hold back, break and look into.

`python -m afterword.testing.fake_openai` runs the fake OpenAI-compatible server by itself.
"""

from afterword.testing.clock import FrozenClock
from afterword.testing.embedder import HashingEmbedder, hashed_vector
from afterword.testing.gates import Gate
from afterword.testing.llm import Completion, ScriptedLLM
from afterword.testing.network import NetworkForbidden, no_network
from afterword.testing.offload import InlineOffload
from afterword.testing.openai_behaviour import Behaviour
from afterword.testing.openai_sending import Received
from afterword.testing.openai_server import FakeOpenAI

__all__ = [
    "Behaviour",
    "Completion",
    "FakeOpenAI",
    "FrozenClock",
    "Gate",
    "HashingEmbedder",
    "InlineOffload",
    "NetworkForbidden",
    "Received",
    "ScriptedLLM",
    "hashed_vector",
    "no_network",
]
