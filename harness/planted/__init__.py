"""Planted subjects: neurons that are known mixtures of known concepts, and the recall of describers on them."""

from harness.planted.checkpoint import checkpoint_of
from harness.planted.corpus import PlantedCorpus
from harness.planted.corruptions import Grade, graded
from harness.planted.naming import naming
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
