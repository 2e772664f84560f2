"""Describers: one module per method, with its prompts in ``prompts/``."""
