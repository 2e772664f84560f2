"""Which tokens count, and how much, before the first channel is sought."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import HarnessError

#: Names that tokenizers give to places they keep free: [unused12], <unused12>, <|reserved_special_token_12|>.
_PLACEHOLDER = re.compile(
    r"^[\[<|]+(unused|reserved|extra_id|pad|mask|image|audio|video)[\w\-| ]*[\]>|]+$", re.IGNORECASE
)


@dataclass(frozen=True)
class TokenWeighting:
    """How tokens are weighted before the first channel.

    Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005, and its authors' released code.

    Attributes:
        norm_percentile: tokens whose column of the projection has a norm above this percentile (0-100) ...
        high_norm_weight: ... get this weight.
        ignored_token_ids: further ids that get weight 0, such as known glitch tokens.
    """

    norm_percentile: float = 99.0
    high_norm_weight: float = 1e-4
    ignored_token_ids: tuple[int, ...] = ()

    def weights(self, projection: Tensor, unused: Collection[int]) -> Tensor:
        """Return one weight per token.

        Args:
            projection: (d_model, V).
            unused: ids that get weight 0: special tokens and tokens without text.

        Returns:
            (V,), float32, on the projection's device.

        Raises:
            HarnessError: if an ignored id is no token's.
        """
        size = projection.shape[1]
        stray = [token for token in self.ignored_token_ids if not 0 <= token < size]
        if stray:
            raise HarnessError(
                f"there is no token {stray[0]}: the vocabulary has ids 0 to {size - 1} "
                "(subject.token_weighting.ignored_token_ids)"
            )
        norms = projection.float().norm(dim=0)
        # kthvalue, not quantile: torch.quantile refuses inputs of more than 16 million elements.
        rank = max(1, min(norms.numel(), round(norms.numel() * self.norm_percentile / 100)))
        weights = torch.ones_like(norms)
        weights[norms > norms.kthvalue(rank).values] = self.high_norm_weight
        weights[sorted({*unused, *self.ignored_token_ids})] = 0.0
        return weights


def is_placeholder(token: str) -> bool:
    """Tell whether a vocabulary entry is a place kept free (``[unused12]``) rather than text."""
    return _PLACEHOLDER.match(token) is not None
