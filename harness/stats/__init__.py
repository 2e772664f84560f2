"""Statistics: mathematics on arrays. Nothing here knows runs or records."""
