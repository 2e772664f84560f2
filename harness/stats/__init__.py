"""Statistics: pure mathematics on arrays, without knowledge of runs or records."""
