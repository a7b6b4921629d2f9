"""Nothing that is no unit vector gets past an embedder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from afterword.errors import EmbedderUnavailable

if TYPE_CHECKING:
    from afterword.ports import Vectors


class Checked:
    """Checks what a model gives; the first answer fixes the dimensions."""

    def __init__(self, model: str, fix: str) -> None:
        self._model = model
        self._fix = fix
        self.dimensions: int | None = None

    def rows(self, made: Any, count: int) -> Vectors:
        """The rows as float32, each made to length 1. Raises `EmbedderUnavailable`, naming what came instead."""
        try:
            rows = np.asarray(made, dtype=np.float32)
        except (TypeError, ValueError):
            raise self._wrong("vectors of different lengths, or no numbers") from None
        if rows.ndim != 2 or rows.shape[0] != count:
            got = rows.shape[0] if rows.ndim else 0
            raise self._wrong(f"{got} vectors for {count} texts")
        if rows.shape[1] == 0 or (self.dimensions is not None and rows.shape[1] != self.dimensions):
            raise self._wrong(f"vectors of {rows.shape[1]} dimensions where it had {self.dimensions or 'more'}")
        if not np.isfinite(rows).all():
            raise self._wrong("a vector with values that are no numbers (NaN or infinite)")
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise self._wrong("a vector of length 0")
        self.dimensions = rows.shape[1]
        unit: Vectors = rows / lengths
        return unit

    def _wrong(self, what: str) -> EmbedderUnavailable:
        return EmbedderUnavailable(f"the embedding model {self._model} gave {what}", fix=self._fix)
