"""The data sets, models and partitions that a topology file may name. No torch, no numpy."""

from __future__ import annotations

from typing import Final

DATASETS: Final = ("digits",)
"""`digits`: 1,797 grey images of 8x8 pixels in 10 classes, embedded; see `data.py`."""

MODELS: Final = ("mlp", "cnn")
"""`mlp`: 64-128-10. `cnn`: two 3x3 convolutions (16, 32 channels) and a linear layer."""

PARTITIONS: Final = ("iid", "shards", "dirichlet")
"""How training samples are dealt to nodes; see `partition.py`."""

PARAMETERS: Final = {("digits", "mlp"): 9_610, ("digits", "cnn"): 9_930}
"""Number of parameters of a model for a data set; each takes 4 bytes on the wire."""

EAGER_MODELS: Final = ("mlp", "cnn")
"""Models that need nothing of torch but eager operations on real tensors."""
