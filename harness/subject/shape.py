"""Declared size of a model that is not on this machine (``subject.shape``)."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from harness.subject.architecture import ARCHITECTURES
from harness.validation import STRICT, Count

#: Families without mixtures of experts.
DENSE = sorted(name for name, known in ARCHITECTURES.items() if known.experts is None)


@dataclass(frozen=True, config=STRICT)
class Shape:
    """Size of an absent model.

    Attributes:
        family: transformers' ``model_type``.
        layers: number of layers.
        d_mlp: neurons per layer.
        d_model: width of the residual stream.
        vocabulary: number of tokens.

    Raises:
        ValueError: if a number is out of range, or the family is unknown or mixes experts.
    """

    family: str
    layers: Count
    d_mlp: Count
    d_model: Count
    vocabulary: Count

    def __post_init__(self) -> None:
        if self.family not in DENSE:
            raise ValueError(f"family must be one of {', '.join(DENSE)}, not {self.family!r}")
