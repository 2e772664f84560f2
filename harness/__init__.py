"""neuron-harness: a benchmark of methods that describe neurons in words.

``docs/architecture.md`` lists the modules and the order in which they import each other.
"""

__version__ = "0.1.0"
