"""neuron-harness: say which way of describing a neuron is best.

The rooms of this package, in the order in which they may import each other, are ``records``, ``subject``,
``decomposition``, ``evidence``, ``llm``, ``methods``, ``stats``, ``report`` and ``run``; the README maps them.
"""

__version__ = "0.1.0"
