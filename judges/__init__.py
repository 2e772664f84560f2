"""Judges: comparators and scorers, with their prompts in ``prompts/``."""
