"""Results of a run, computed from its records alone: comparisons, win rates, scores, tables and summaries."""
