"""A run: setup, stages, manifest, trackers, the command line."""
