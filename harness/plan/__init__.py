"""Estimated LLM calls, time, disk and detectable difference of a run: ``python -m harness.plan``."""
