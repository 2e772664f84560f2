"""A run as a dataset for others: parquet tables, a card, and a file that ``describers=[precomputed]`` reads back."""

from harness.export.dataset import export_run, push

__all__ = ["export_run", "push"]
