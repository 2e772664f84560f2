"""Planted subjects: neurons that are known mixtures of known concepts, and the recall of describers on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import lazy_exports

if TYPE_CHECKING:
    from harness.planted.checkpoint import checkpoint_of
    from harness.planted.corpus import PlantedCorpus
    from harness.planted.corruptions import Grade, graded
    from harness.planted.named import naming
    from harness.planted.planting import truth_of
    from harness.planted.settings import Planting
    from harness.planted.subject import PlantedSubject
    from harness.planted.truth import Seen, Truth

__all__ = [
    "Grade",
    "PlantedCorpus",
    "PlantedSubject",
    "Planting",
    "Seen",
    "Truth",
    "checkpoint_of",
    "graded",
    "naming",
    "truth_of",
]

__getattr__ = lazy_exports(__name__, __file__)
