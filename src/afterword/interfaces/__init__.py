"""Interfaces translate: a request into a call of `AsyncMemory`, what it gives into an answer. They decide nothing."""
