"""A subject that is not on this machine, of which only the declared size is known (``subject.shape``)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from harness.subject.architecture import MLP
from harness.subject.shape import Shape
from harness.subject.subject import Subject
from harness.subject.weights import Weights


class DeclaredSubject(Subject):
    """An absent subject of which only the shape is known: neurons can be selected and checked, but it cannot run.

    Args:
        name: its name in messages.
        folder: folder of the tiny model, for tokenizer and config.
        shape: the shape of the absent model.
    """

    def __init__(self, name: str, folder: Path, shape: Shape) -> None:
        super().__init__(name, (str(folder),))
        self._declared = shape

    @cached_property
    def weights(self) -> Weights:
        """The shapes of the weights."""
        return _DeclaredWeights(self, self._declared)

    def projection_name(self, layer: int) -> str:
        """Return an empty text: the name depends on the weights."""
        return ""

    @property
    def max_tokens(self) -> int | None:
        """None: the limit is unknown."""
        return None


class _DeclaredWeights(Weights):
    def __init__(self, subject: Subject, shape: Shape) -> None:
        super().__init__(subject.name, subject.config.get_text_config(), subject.architecture, subject.checkpoint)
        self.num_layers, self.d_model, self._declared = shape.layers, shape.d_model, shape

    def width(self, mlp: MLP) -> int:
        return self._declared.d_mlp

    def widths(self, layer: int) -> dict[int | None, int]:
        return {None: self._declared.d_mlp}

    @property
    def vocab_size(self) -> int:
        return self._declared.vocabulary
