"""The model under study: files, architecture, weight vectors, token weights, activations and interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import lazy_exports

if TYPE_CHECKING:
    from harness.subject.activations import ActivationReader, check_signs
    from harness.subject.decoding import Decoding, Mode
    from harness.subject.intervention import CausalModel, Intervention, OutChange, check_causal, lacks_head
    from harness.subject.mlp_input import NeuronsOnText, read_mlps
    from harness.subject.subject import Subject
    from harness.subject.token_weights import TokenGroup, TokenWeighting

__all__ = [
    "ActivationReader",
    "CausalModel",
    "Decoding",
    "Intervention",
    "Mode",
    "NeuronsOnText",
    "OutChange",
    "Subject",
    "TokenGroup",
    "TokenWeighting",
    "check_causal",
    "check_signs",
    "lacks_head",
    "read_mlps",
]

__getattr__ = lazy_exports(__name__, __file__)
