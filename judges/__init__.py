"""Judges: comparators and scorers; prompts are in ``prompts/``, ``conf/judges/`` documents the options."""
