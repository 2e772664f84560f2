"""Describers: one module per method; prompts are in ``prompts/``, the options are documented in ``conf/describers/``."""
