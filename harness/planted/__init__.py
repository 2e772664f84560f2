"""Planted subjects: neurons that are known mixtures of known concepts, and the recall of describers on them."""

from harness.planted.checkpoint import checkpoint_of
from harness.planted.corpus import PlantedCorpus
from harness.planted.corruptions import Grade, Graded, graded
from harness.planted.naming import Naming, naming
from harness.planted.planting import plant, truth_of
from harness.planted.settings import Level, Planting
from harness.planted.subject import PlantedSubject
from harness.planted.truth import Concept, Part, Planted, PlantedNeuron, Seen, Truth

__all__ = [
    "Concept",
    "Grade",
    "Graded",
    "Level",
    "Naming",
    "Part",
    "Planted",
    "PlantedCorpus",
    "PlantedNeuron",
    "PlantedSubject",
    "Planting",
    "Seen",
    "Truth",
    "checkpoint_of",
    "graded",
    "naming",
    "plant",
    "truth_of",
]
