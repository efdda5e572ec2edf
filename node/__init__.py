"""What runs inside one node of a peerbed run: protocol core, algorithms, links, training, runtime.

`node` never imports `deploy`; see docs/architecture.md for the order of imports.
"""

__version__ = "0.1.0"
