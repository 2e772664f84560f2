"""``python -m harness``: the same as the command ``neuron-harness``."""

from harness.run.main import main

main()
