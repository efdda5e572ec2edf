"""The data sets, models and partitions that a topology file may name. No torch, no numpy."""

from __future__ import annotations

import re
from typing import Final

DATASETS: Final = ("digits", "cifar10", "movielens", "text", "images")
"""`digits`: 1,797 grey images of 8x8 pixels in 10 classes, embedded. The others are looked for in
the data folder: `cifar10`: 60,000 images of 32x32 pixels in 10 classes. `movielens`: ratings of
films. `text`: the characters of a text file. `images`: an image folder of the user's. See `data`.
"""

MODELS: Final = (
    "mlp",
    "cnn",
    "gn-lenet",
    "gn-lenet-small",
    "resnet18",
    "matrix-factorisation",
    "char-gpt",
)
"""Models of our own; see `models`. A user's own is `module:function`."""

_RATINGS: Final = ("matrix-factorisation",)
_TEXT: Final = ("char-gpt",)
_IMAGES: Final = tuple(name for name in MODELS if name not in _RATINGS + _TEXT)

MODELS_FOR: Final = {
    "digits": tuple(name for name in _IMAGES if name != "resnet18"),
    "cifar10": _IMAGES,
    "movielens": _RATINGS,
    "text": _TEXT,
    "images": _IMAGES,
}
"""Which models of ours fit a data set; ResNet-18 is for colour images. A user's own may fit any."""

EMBEDDED: Final = ("digits",)
"""Data sets that need no data folder."""

DECODED: Final = ("cifar10", "images")
"""Data sets whose files are decoded once and kept as arrays; see `cache`."""

WITH_USERS: Final = ("movielens",)
"""Data sets whose samples belong to users, by whom they can be dealt."""

PARTITIONS: Final = ("iid", "shards", "dirichlet", "user")
"""How training samples are dealt to nodes; see `partition.py`."""

PARAMETERS: Final = {
    ("digits", "mlp"): 9_610,
    ("digits", "cnn"): 9_930,
    ("cifar10", "gn-lenet"): 89_834,
    ("cifar10", "gn-lenet-small"): 10_954,
    ("cifar10", "resnet18"): 11_181_642,
    ("movielens", "matrix-factorisation"): 206_680,
    ("text", "char-gpt"): 112_577,
}
"""Number of parameters of a model for a data set, 4 bytes each on the wire. For `text` with an
alphabet of 65 and a context of 64, for `movielens` of ml-latest-small."""

EAGER_MODELS: Final = tuple(name for name in MODELS if name != "resnet18")
"""Models that need nothing of torch but eager operations on real tensors."""

LEFT_OUT: Final = "torch._meta_registrations"
"""A module of torch that eager operations on real tensors do without (a quarter of the CPU time of
`import torch`); torchvision needs it."""

OWN_MODEL: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A function of a user's own that makes a model."""
