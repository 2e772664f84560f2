"""Weights of the tokens before the first channel."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as validated_dataclass

from harness.errors import HarnessError
from harness.validation import STRICT, NonNegative, OneOrMore, Whole

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TokenGroup:
    """Tokens with the same weight for the same reason.

    Attributes:
        name: the reason: ``special``, ``kept free``, ``beyond the tokenizer``, ``no UTF-8``, ``unreachable``,
            ``under-trained``, ``ignored`` or ``high norm``.
        weight: their weight before the first channel.
        count: number of tokens; a token belongs to the first group that fits.
        examples: some of them as text, spread evenly over the vocabulary.
    """

    name: str
    weight: float
    count: int
    examples: tuple[str, ...]


@validated_dataclass(frozen=True, config=STRICT)
class TokenWeighting:
    """How tokens are weighted before the first channel; ``conf/subject/minilm.yaml`` explains the options.

    Source: Avrahamy, Gur-Arieh, Geva 2026, arXiv:2604.06005. The authors' code includes lists of glitch tokens; here
    they are detected following Land & Bartolo 2024, arXiv:2405.05417.

    Attributes:
        norm_percentile: percentile (0-100) of the norms of the projection's columns; tokens above it ...
        high_norm_weight: ... get this weight.
        detect: groups that get weight 0: ``unreachable`` and ``undertrained``.
        keep_unused: whether these groups, and tokens that are no text, keep the weight that their norm gives them.
        ignored_token_ids: further ids with weight 0.
        ignored_token_file: file with such ids, a JSON list or one id per line.

    Raises:
        ValueError: if a value is out of range.
    """

    norm_percentile: Annotated[float, Field(strict=True, ge=0, le=100)] = 99.0
    high_norm_weight: NonNegative = 1e-4
    detect: OneOrMore[Literal["unreachable", "undertrained"]] = ("unreachable", "undertrained")
    keep_unused: bool = False
    ignored_token_ids: OneOrMore[Whole] = ()
    ignored_token_file: str | None = None

    @cached_property
    def ignored(self) -> frozenset[int]:
        """The ids of the list and of the file.

        Raises:
            HarnessError: if the file cannot be read or contains anything but ids.
        """
        return frozenset(self.ignored_token_ids).union(
            _read_ids(Path(self.ignored_token_file)) if self.ignored_token_file else ()
        )

    def weights(self, projection: Tensor, unused: Collection[int]) -> Tensor:
        """Return one weight per token.

        Args:
            projection: (d_model, V).
            unused: special tokens, tokens without text, and detected ones: weight 0 unless ``keep_unused``.

        Returns:
            (V,), float32, on the projection's device.

        Raises:
            HarnessError: if an ignored id is not in the vocabulary, or the file of ids cannot be read.
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
        weights: Tensor = norms.new_ones(norms.shape)
        weights[norms > norms.kthvalue(rank).values] = self.high_norm_weight
        weights[sorted(self.ignored if self.keep_unused else self.ignored.union(unused))] = 0.0
        return weights


def _read_ids(path: Path) -> list[int]:
    option = "(subject.token_weighting.ignored_token_file)"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise HarnessError(f"the token ids in {path} cannot be read: {reason} {option}") from error
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise HarnessError(f"{path} begins as a JSON list but is not valid: {error} {option}") from error
        for index, item in enumerate(found, start=1):
            if type(item) is not int:
                raise HarnessError(f"{path}, item {index}: {json.dumps(item)[:40]} is not a token id {option}")
        return list(found)
    ids = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            if not line.strip().isdecimal():
                raise HarnessError(
                    f"{path}, line {number}: {line.strip()[:40]!r} is not a token id; the file must be a JSON list "
                    f"of ids, or have one id per line {option}"
                )
            ids.append(int(line))
    return ids
