"""Judges: comparators and scorers; their prompts are in ``prompts/``, their options documented in ``conf/judges/``."""
