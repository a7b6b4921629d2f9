"""Chat models behind `ports.LLM`. Nothing is imported here: `wiring` imports the one that is chosen."""
