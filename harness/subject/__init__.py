"""The model under study: files, architecture, weight vectors, token weights, activations."""

from harness.subject.activations import ActivationReader, check_signs
from harness.subject.subject import Subject
from harness.subject.token_weights import TokenGroup, TokenWeighting

__all__ = ["ActivationReader", "Subject", "TokenGroup", "TokenWeighting", "check_signs"]
