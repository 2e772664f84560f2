"""How evidence is gathered, and how much text it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.errors import HarnessError
from harness.records import Split


@dataclass(frozen=True)
class EvidenceConfig:
    """How evidence is gathered.

    Attributes:
        window: tokens per window.
        stride: tokens from the beginning of one window to that of the next; none for ``window``. Smaller: they overlap.
        max_documents: at most so many documents of the corpus; none for all.
        splits: share of the documents of each split.
        top: windows of highest activation kept per neuron and split.
        quantiles: equal parts, by peak activation, of the windows that activate a neuron; 0 for no such samples.
        per_quantile: windows drawn from each part, per neuron and split.
        random: random windows kept per neuron and split, drawn for each neuron from a pool four times as large.
        strong: share of a neuron's maximum above which an activation counts as strong.
        batch_windows: windows per forward pass; changes speed and memory only.
        copy_table_mib: MiB of the table that finds copied text.
        store: folder of the evidence that runs share; none keeps it in the run's folder alone.
        checkpoint_s: seconds after which the running state is saved once more.
    """

    window: int = 64
    stride: int | None = None
    max_documents: int | None = 4000
    splits: Mapping[Split, float] = field(
        default_factory=lambda: {Split.EXPLAIN: 0.4, Split.SELECT: 0.1, Split.CALIBRATE: 0.1, Split.REPORT: 0.4}
    )
    top: int = 20
    quantiles: int = 5
    per_quantile: int = 2
    random: int = 40
    strong: float = 0.1
    batch_windows: int = 64
    copy_table_mib: int = 64
    store: str | None = None
    checkpoint_s: float = 60.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", {Split(name): float(share) for name, share in self.splits.items()})
        if set(self.splits) != set(Split) or min(self.splits.values()) <= 0:
            raise HarnessError(f"evidence.splits needs a positive share for each of {', '.join(Split)}")
        least = {"window": 1, "top": 1, "quantiles": 0, "per_quantile": 1, "random": 1, "batch_windows": 1}
        for name, bound in {**least, "copy_table_mib": 1, "checkpoint_s": 0}.items():
            if getattr(self, name) < bound:
                raise HarnessError(f"evidence.{name} must be at least {bound}, not {getattr(self, name)}")
        for name in ("stride", "max_documents"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise HarnessError(f"evidence.{name} must be at least 1 or null, not {value}")
        if not 0 < self.strong < 1:
            raise HarnessError(f"evidence.strong must lie between 0 and 1, not {self.strong}")

    @property
    def step(self) -> int:
        """Tokens from the beginning of one window to that of the next."""
        return self.stride or self.window

    @property
    def identity(self) -> dict[str, object]:
        """The settings that change what is gathered."""
        return {
            "window": self.window,
            "stride": self.step,
            "max_documents": self.max_documents,
            "splits": {split.value: self.splits[split] for split in Split},
            "top": self.top,
            "quantiles": self.quantiles,
            "per_quantile": self.per_quantile if self.quantiles else 0,
            "random": self.random,
            "strong": self.strong,
            "copy_table_mib": self.copy_table_mib,
        }


@dataclass(frozen=True)
class CorpusSummary:
    """How much text was read, for the manifest and the report.

    Attributes:
        name: what reports call the corpus.
        documents: documents of which at least one window was kept.
        windows: windows kept.
        tokens: tokens in them that count; overlapping windows count theirs each.
        copies: windows left out because they stood in the corpus before, or share text with another split.
        complete: whether the corpus was read to its end; if not, the table that finds copies was full.
    """

    name: str
    documents: int
    windows: int
    tokens: int
    copies: int = 0
    complete: bool = True
