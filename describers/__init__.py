"""Describers: one module per method, its prompt beside it."""
