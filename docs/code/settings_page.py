"""Writes docs/settings.md from the settings' own descriptions."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from afterword.settings import PREFIX, Settings

GROUPS = {
    "data_dir": "Where things are",
    "host": "Serving",
    "tenant": "Who and where the person is",
    "llm_base_url": "The LLM that chats",
    "decider_base_url": "The LLM that works behind the reply",
    "embedder": "Embeddings",
    "milvus_uri": "Index",
    "recall_deadline": "Deadlines",
    "remember": "What is remembered",
    "history_turns": "What goes into a prompt",
    "worker_concurrency": "The worker",
    "max_waiting_jobs": "Limits",
    "log_level": "Logs and traces",
}
COMPUTED = {"data_dir": "`$XDG_DATA_HOME/afterword`, else `~/.local/share/afterword`"}
HEAD = """# Settings

Each setting can be given in four places; the first that has it wins:

1. an option of any command: `--llm-model NAME`, `--no-open-browser` (true and false are `--log-json` and
   `--no-log-json`);
2. the environment: `AFTERWORD_LLM_MODEL=NAME`;
3. a file `.env` in the current folder, written as the environment is;
4. one TOML file: the one that `--config` or `AFTERWORD_CONFIG` names, else `afterword.toml` in the current folder, else
   the one in the data folder. Its keys are the names below.

Where the LLM or the embedder is not set, the variables that other tools use fill the gap: `OPENAI_API_KEY` with
`OPENAI_BASE_URL` and `OPENAI_MODEL`, `DEEPSEEK_API_KEY`, `SILICONFLOW_API_KEY` (chat and embeddings). A key is only sent
to the host it is for. With none of these, an Ollama that answers on this machine is used.

`afterword settings` lists what holds now and where each value came from; `afterword doctor` tries it out and says what
to fix. An unknown name is refused, with the nearest known one.

This page is made from the settings themselves: `python -m docs.code.embed` writes it anew.
"""


def settings_page() -> str:
    """The page as it should be."""
    parts = [HEAD]
    for name, field in Settings.model_fields.items():
        if name in GROUPS:
            parts.append(f"\n## {GROUPS[name]}\n\n| setting | takes | default |\n| --- | --- | --- |\n")
        takes = (field.description or "").replace("|", "\\|")
        parts.append(f"| `{(PREFIX + name).upper()}` | {takes} | {COMPUTED.get(name) or _shown(field.default)} |\n")
    return "".join(parts)


def _shown(default: Any) -> str:
    if isinstance(default, SecretStr) or default == "":
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
