"""The model under study: files, architecture, weight vectors, token weights, activations and interventions."""

from harness.subject.activations import ActivationReader, check_signs
from harness.subject.intervention import CausalModel, Decoding, Intervention, Mode, OutChange, check_causal, lacks_head
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
