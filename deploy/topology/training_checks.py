"""What keys of `training` mean together: data set, model, partition, data folder (pure)."""

from __future__ import annotations

from deploy.topology.model import TopologyFile
from deploy.topology.reader import Document
from node.training import catalog


def check_training(document: Document, file: TopologyFile) -> None:
    """The model fits the data, the data is somewhere, and no key is without a meaning."""
    training = file.training
    dataset, at = training.dataset, ("training",)
    fitting = catalog.MODELS_FOR[dataset]
    if training.model in catalog.MODELS and training.model not in fitting:
        message = f"the model {training.model} does not fit the data set {dataset}"
        document.report((*at, "model"), message, f"models for it: {', '.join(fitting)}")
    if training.data_dir is None and dataset not in catalog.EMBEDDED:
        message = f"the data set {dataset} needs `data_dir`, the folder that it lies in"
        document.report((*at, "dataset"), message)
    if "context" in training.model_fields_set and dataset != "text":
        message = "means something only with `dataset: text`"
        document.report((*at, "context"), message, key=True)
    _check_partition(document, file)


def _check_partition(document: Document, file: TopologyFile) -> None:
    partition, at = file.training.partition, ("training", "partition")
    for key, kind in (("shards", "shards"), ("alpha", "dirichlet")):
        if key in partition.model_fields_set and partition.kind != kind:
            message = f"means something only with `kind: {kind}`"
            document.report((*at, key), message, key=True)
    if partition.kind == "user" and file.training.dataset not in catalog.WITH_USERS:
        message = f"the samples of {file.training.dataset} belong to no users"
        document.report((*at, "kind"), message, f"this is for {', '.join(catalog.WITH_USERS)}")
