"""Settings of the pass over the corpus, and a summary of the text that was read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pydantic import field_validator
from pydantic.dataclasses import dataclass

from harness.records import Split
from harness.validation import STRICT, Count, CountOrZero, NonNegative, Positive


@dataclass(frozen=True, config=STRICT)
class EvidenceConfig:
    """The section ``evidence`` of the config; conf/config.yaml documents the options.

    Raises:
        ValueError: if a value is out of range.
    """

    window: Count = 64
    stride: Count | None = None
    max_documents: Count | None = 4000
    splits: Mapping[Split, Positive] = dataclasses.field(
        default_factory=lambda: {Split.EXPLAIN: 0.4, Split.SELECT: 0.1, Split.CALIBRATE: 0.1, Split.REPORT: 0.4}
    )
    top: Count = 20
    quantiles: CountOrZero = 5
    per_quantile: Count = 2
    random: Count = 40
    report_random: Count = 1000
    report_documents: Count | None = 4000
    batch_windows: Count = 64
    memory: Positive = 8.0
    store: str | None = None
    checkpoint_s: NonNegative = 60.0

    @field_validator("splits")
    @classmethod
    def _complete(cls, splits: Mapping[Split, float]) -> Mapping[Split, float]:
        if set(splits) != set(Split):
            raise ValueError(f"must have a share for each of {', '.join(Split)}, not for {', '.join(splits) or 'none'}")
        return splits

    def shares(self, held_out: bool) -> Mapping[Split, float]:
        """Return the share of each split in the run's corpus, or in one of which only judges see text."""
        judged = (Split.CALIBRATE, Split.REPORT)
        return {split: self.splits[split] for split in judged} if held_out else self.splits

    def most_documents(self, held_out: bool) -> int | None:
        """Return the maximum number of documents of the run's corpus, or of one of which only judges see text."""
        return self.report_documents if held_out else self.max_documents

    @property
    def step(self) -> int:
        """Tokens from the start of one window to the start of the next."""
        return self.stride or self.window

    def random_of(self, split: Split) -> int:
        """Return the number of random windows of a split: more in the report split, where scorers weigh them."""
        return max(self.random, self.report_random) if split is Split.REPORT else self.random

    @property
    def identity(self) -> dict[str, object]:
        """The settings that determine what is kept of the run's corpus, as plain JSON types."""
        return {
            "window": self.window,
            "stride": self.step,
            "max_documents": self.max_documents,
            "splits": {split.value: self.splits[split] for split in Split},
            "top": self.top,
            "quantiles": self.quantiles,
            "per_quantile": self.per_quantile if self.quantiles else 0,
            "random": {split.value: self.random_of(split) for split in Split},
        }


@dataclasses.dataclass(frozen=True)
class CorpusSummary:
    """How much text was read, for the manifest and the report.

    Attributes:
        name: name of the corpus in reports.
        documents: documents of which at least one window was kept.
        windows: windows kept.
        tokens: tokens of these windows that count as evidence; overlapping windows count shared tokens twice.
        copies: windows left out because they occurred before or share text with another split.
        report_windows: windows of the report split, from which its top and random windows are taken.
    """

    name: str
    documents: int
    windows: int
    tokens: int
    copies: int = 0
    report_windows: int = 0
