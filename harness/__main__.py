"""``python -m harness`` is the same as the command ``neuron-harness``."""

from harness.run.main import main

main()
