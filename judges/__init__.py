"""Judges: comparators and scorers, one module each, prompts beside them."""
