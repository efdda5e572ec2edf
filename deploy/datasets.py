"""What the host has ready of a data set before containers start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from deploy.plan import data_folder
from deploy.topology import Topology
from node.config import TrainingConfig
from node.training import catalog, data


def kept(topology: Topology) -> Path | None:
    """The folder of arrays that a data set was decoded to, for containers to map: each of them
    would have to decode it by itself, since they share no folder that they can write to.

    Returns:
        None: its files are read as they are.

    Raises:
        ConfigError, EnvironmentFault: the data is missing, damaged, or cannot be decoded here.
    """
    dataset = topology.file.training.dataset
    if dataset not in catalog.DECODED:
        return None
    loaded = data.load(TrainingConfig(dataset=dataset, data_dir=data_folder(topology)))
    assert isinstance(loaded.inputs, np.memmap)
    assert loaded.inputs.filename is not None
    return Path(loaded.inputs.filename).parent
