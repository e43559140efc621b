"""Distributed hyperparameter sweeps for models that must comply.

In the repository this folder holds links to `core`, `sweeps`, `trainables` and `configs`, which lie beside it. So they
are `gatesweep.core` and so on in a checkout as well as installed, and have no other name.
"""

__version__ = "0.1.0"
