"""Embedding models behind `ports.Embedder`. Nothing is imported here: `wiring` imports the one that is chosen."""
