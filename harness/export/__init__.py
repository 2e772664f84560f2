"""Export a run as a data set: parquet tables, a card, and a file that ``describers=[precomputed]`` reads."""

from harness.export.dataset import export_run, push

__all__ = ["export_run", "push"]
