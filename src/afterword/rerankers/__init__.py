"""Rerankers: a model that reads a query and a text together (a cross-encoder). None unless one is chosen."""
