"""Published training set-ups, as keys of `training` (pure). The file's own keys come first; a
`partition` in the file replaces the preset's as a whole."""

from __future__ import annotations

from typing import Any, Final

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # DivShare (Biswas et al. 2024), the artifact's example_config.ini: GN-LeNet (89,834
    # parameters), SGD with 0.05 and batches of 8, five shards a node; 128 local steps a round,
    # which are an option of the algorithm.
    "divshare-cifar10": {
        "dataset": "cifar10",
        "model": "gn-lenet",
        "batch_size": 8,
        "learning_rate": 0.05,
        "partition": {"kind": "shards", "shards": 5},
    },
    # Of the paper are data, model (206,680 parameters) and the split by users. The artifact ships
    # no configuration for it: learning rate and batch size are our choice. A user's factors change
    # on one node alone and are averaged with the others' old copies, so that 60 nodes leave the
    # plateau at the start slowly (with 0.1 not within ten rounds); from 0.5 on training diverges.
    "divshare-movielens": {
        "dataset": "movielens",
        "model": "matrix-factorisation",
        "batch_size": 8,
        "learning_rate": 0.2,
        "partition": {"kind": "user"},
    },
}
