"""Describers: one module per method; prompts are in ``prompts/``, ``conf/describers/`` documents the options."""
