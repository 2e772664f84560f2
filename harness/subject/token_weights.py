"""Which tokens count, and how much, before the first channel is sought."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import HarnessError

#: What can be detected beyond what the tokenizer marks as no text; see :class:`TokenWeighting`.
DETECTABLE = ("unreachable", "undertrained")


@dataclass(frozen=True)
class TokenGroup:
    """Tokens that weigh the same for the same reason.

    Attributes:
        name: why: ``special``, ``kept free``, ``beyond the tokenizer``, ``no UTF-8``, ``unreachable``,
            ``under-trained``, ``ignored`` or ``high norm``.
        weight: their weight before the first channel.
        count: how many they are; a token is counted in the first group it belongs to.
        examples: some of them as text, spread evenly over the vocabulary.
    """

    name: str
    weight: float
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class TokenWeighting:
    """How tokens are weighted before the first channel.

    Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005, and its authors' released code, which ships lists of
    glitch tokens; here they are detected after Land & Bartolo 2024, arXiv:2405.05417.

    Attributes:
        norm_percentile: tokens whose column of the projection has a norm above this percentile (0-100) ...
        high_norm_weight: ... get this weight.
        detect: what gets weight 0 besides what the tokenizer marks as no text: ``unreachable`` tokens, which it never
            produces, and ``undertrained`` ones, which the weights show were never or hardly trained.
        ignored_token_ids: further ids that get weight 0, such as known glitch tokens.
        ignored_token_file: a file of such ids, a JSON list or one id a line; none for no file.

    Raises:
        HarnessError: if ``detect`` names something else.
    """

    norm_percentile: float = 99.0
    high_norm_weight: float = 1e-4
    detect: tuple[str, ...] = DETECTABLE
    ignored_token_ids: tuple[int, ...] = ()
    ignored_token_file: str | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.detect if name not in DETECTABLE]
        if unknown:
            raise HarnessError(
                f"{unknown[0]!r} tokens cannot be detected; choose from {', '.join(DETECTABLE)} "
                "(subject.token_weighting.detect)"
            )

    @cached_property
    def ignored(self) -> frozenset[int]:
        """The ids given by hand, of the list and of the file.

        Raises:
            HarnessError: if the file cannot be read or holds anything but ids.
        """
        return frozenset(self.ignored_token_ids).union(
            _read_ids(Path(self.ignored_token_file)) if self.ignored_token_file else ()
        )

    def weights(self, projection: Tensor, unused: Collection[int]) -> Tensor:
        """Return one weight per token.

        Args:
            projection: (d_model, V).
            unused: ids that get weight 0: special tokens, tokens without text, and what was detected.

        Returns:
            (V,), float32, on the projection's device.

        Raises:
            HarnessError: if an ignored id is no token's, or the file of ids cannot be read.
        """
        size = projection.shape[1]
        stray = sorted(token for token in self.ignored if not 0 <= token < size)
        if stray:
            given = "ids" if stray[0] in self.ignored_token_ids else "file"
            raise HarnessError(
                f"there is no token {stray[0]}: the vocabulary has ids 0 to {size - 1} "
                f"(subject.token_weighting.ignored_token_{given})"
            )
        norms = projection.float().norm(dim=0)
        # kthvalue, not quantile: torch.quantile refuses inputs of more than 16 million elements.
        rank = max(1, min(norms.numel(), round(norms.numel() * self.norm_percentile / 100)))
        weights = torch.ones_like(norms)
        weights[norms > norms.kthvalue(rank).values] = self.high_norm_weight
        weights[sorted(self.ignored.union(unused))] = 0.0
        return weights


def _read_ids(path: Path) -> list[int]:
    option = "(subject.token_weighting.ignored_token_file)"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise HarnessError(f"the token ids in {path} cannot be read: {reason} {option}") from error
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise HarnessError(f"{path} begins as a JSON list but is none: {error} {option}") from error
        for place, item in enumerate(found, start=1):
            if type(item) is not int:
                raise HarnessError(f"{path}, item {place}: {json.dumps(item)[:40]} is no token id {option}")
        return list(found)
    ids = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            if not line.strip().isdecimal():
                raise HarnessError(
                    f"{path}, line {number}: {line.strip()[:40]!r} is no token id; the file may be a JSON list of "
                    f"ids, or have one id a line {option}"
                )
            ids.append(int(line))
    return ids
