"""The section `training`: presets, what fits together, what a plan makes of it, where data is."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy import datasets
from deploy.plan import BackendKind, Plan, make_plan
from deploy.render import render
from deploy.topology import Topology, TopologyErrors, load_topology, parse_topology
from deploy.topology.formats.yaml_writer import to_yaml
from deploy.topology.presets import PRESETS
from node.config import PartitionConfig, TrainingConfig
from node.core.ids import COORDINATOR, NodeId
from node.errors import ConfigError, EnvironmentFault
from node.training import data, models
from node.training.catalog import MODELS, MODELS_FOR, PARAMETERS
from tests.unit.training_data import pictures, write_zip

ROOT = Path(__file__).parents[2]
HEAD = "nodes: 2\nnetwork: {shape: line}\nalgorithm: {name: divshare}\nstop: {rounds: 3}\n"


def parse(training: str, *, path: Path = Path("/somewhere/t.yaml")) -> Topology:
    return parse_topology((HEAD + f"training: {training}\n").encode(), path=path)


def simulated(training: str) -> Plan:
    return make_plan(parse(training), run_id="r", backend=BackendKind.SIM)


def test_divshare_cifar10_is_what_the_artifact_ships() -> None:
    plan = simulated("{preset: divshare-cifar10, data_dir: sets}")
    assert plan.nodes[0].config.training == TrainingConfig(
        dataset="cifar10",
        model="gn-lenet",
        batch_size=8,
        learning_rate=0.05,
        partition=PartitionConfig(kind="shards", shards=5),
        data_dir="/somewhere/sets",
    )
    assert plan.coordinator.training == plan.nodes[0].config.training


def test_divshare_movielens_factorises_by_user() -> None:
    training = simulated("{preset: divshare-movielens, data_dir: sets}").nodes[0].config.training
    assert (training.dataset, training.model) == ("movielens", "matrix-factorisation")
    assert training.partition.kind == "user"


def test_keys_of_the_file_come_before_the_presets() -> None:
    given = "{preset: divshare-cifar10, data_dir: d, batch_size: 3, partition: {kind: iid}}"
    training = simulated(given).nodes[0].config.training
    assert (training.batch_size, training.learning_rate) == (3, 0.05)
    assert training.partition == PartitionConfig(kind="iid")
    written = to_yaml(parse(given).file, source="t.yaml").encode()
    again = parse_topology(written, path=Path("/somewhere/t.yaml"))
    assert again.file.training == parse(given).file.training


@pytest.mark.parametrize(
    ("preset", "parameters"), [("divshare-cifar10", 89_834), ("divshare-movielens", 206_680)]
)
def test_the_papers_models_have_the_papers_number_of_parameters(
    preset: str, parameters: int
) -> None:
    keys = PRESETS[preset]
    assert PARAMETERS[keys["dataset"], keys["model"]] == parameters
    assert keys["model"] in MODELS_FOR[keys["dataset"]]


@pytest.mark.parametrize("name", ["divshare-cifar10", "divshare-movielens"])
def test_the_papers_set_up_is_60_nodes_half_of_them_at_a_fifth_of_the_rate(name: str) -> None:
    topology = load_topology(ROOT / "topologies" / f"{name}.yaml")
    plan = make_plan(topology, run_id="r", backend=BackendKind.SIM)
    rates = [link.spec.rate_bps for link in topology.network.links]
    assert (rates.count(60_000_000), rates.count(12_000_000)) == (60, 60)
    options = plan.nodes[0].config.algorithm.options
    assert len(plan.nodes) == 60
    assert (options["local_steps"], options["degree"], options["omega"]) == (128, 6, 0.1)
    assert topology.file.training.preset == name


def test_virtual_messages_count_for_what_is_said_and_only_in_virtual_time() -> None:
    topology = parse("{message_size: 359336B, test_samples: 100}")
    training = make_plan(topology, run_id="r", backend=BackendKind.SIM).nodes[0].config.training
    assert (training.message_bytes, training.test_samples) == (359_336, 100)
    ports = {NodeId("n-0"): 1, NodeId("n-1"): 2, COORDINATOR: 3}
    for backend in (BackendKind.DOCKER, BackendKind.LOCAL):
        with pytest.raises(ConfigError, match="message_size") as caught:
            make_plan(
                topology,
                run_id="r",
                backend=backend,
                subnet=IPv4Network("10.77.0.0/24"),
                ports=ports,
            )
        assert "deploy sim" in str(caught.value.remedy)


def test_a_model_of_ones_own_is_named_by_module_and_function() -> None:
    training = simulated("{model: 'mine.nets:make'}").nodes[0].config.training
    assert training.model == "mine.nets:make"


@pytest.mark.parametrize(
    ("training", "key", "says"),
    [
        ("{preset: divshare}", "training.preset", "divshare-cifar10"),
        ("{model: lenet}", "training.model", "gn-lenet"),
        ("{model: 'mine:'}", "training.model", "module:function"),
        ("{dataset: cifar10, model: cnn}", "training.dataset", "needs `data_dir`"),
        ("{preset: divshare-cifar10}", "training.dataset", "needs `data_dir`"),
        ("{dataset: movielens, data_dir: d}", "training.model", "mlp does not fit"),
        ("{model: resnet18}", "training.model", "resnet18 does not fit the data set digits"),
        ("{context: 10}", "training.context", "only with `dataset: text`"),
        ("{partition: {kind: user}}", "training.partition.kind", "belong to no users"),
        ("{partition: {kind: user, shards: 3}}", "training.partition.shards", "`kind: shards`"),
        ("{message_size: 3}", "training.message_size", "512MiB"),
        ("{test_samples: 0}", "training.test_samples", "1"),
    ],
)
def test_what_does_not_fit_together_is_said_with_its_place(
    training: str, key: str, says: str
) -> None:
    with pytest.raises(TopologyErrors) as caught:
        parse(training)
    found = {problem.key: str(problem) for problem in caught.value.problems}
    assert key in found
    assert says in found[key]


def test_every_model_fits_some_data_set() -> None:
    assert {model for fitting in MODELS_FOR.values() for model in fitting} == set(MODELS)
    for dataset, model in PARAMETERS:
        assert model in MODELS_FOR[dataset]


# Before containers start -------------------------------------------------------------------------


def test_containers_map_what_the_host_has_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERBED_CACHE", str(tmp_path / "kept"))
    write_zip(tmp_path / "cifar10.zip", pictures())
    topology = parse("{preset: divshare-cifar10, data_dir: .}", path=tmp_path / "t.yaml")
    folder = datasets.kept(topology)
    assert folder is not None
    assert folder.parent == tmp_path / "kept"
    assert (folder / "inputs.npy").is_file()
    plan = make_plan(
        topology, run_id="r", backend=BackendKind.DOCKER, subnet=IPv4Network("10.77.0.0/24")
    )
    for arrays, there in ((folder, True), (None, False)):
        files = {str(name): text for name, text in render(plan, image="i", arrays=arrays).items()}
        assert ("PEERBED_CACHE: /cache\n" in files["compose.yaml"]) is there
        assert (f"target: /cache/{folder.name}," in files["compose.yaml"]) is there
    # What a container finds there is found by the name that the host gave it.
    monkeypatch.setenv("PEERBED_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    folder.rename(tmp_path / "cache" / folder.name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cifar10.zip").rename(tmp_path / "elsewhere" / "cifar10.zip")
    config = TrainingConfig(dataset="cifar10", data_dir=str(tmp_path / "elsewhere"))
    loaded = data.load(config)
    assert str(loaded.inputs.filename) == str(tmp_path / "cache" / folder.name / "inputs.npy")  # type: ignore[attr-defined]


def test_missing_images_are_told_before_containers_start(tmp_path: Path) -> None:
    topology = parse("{preset: divshare-cifar10, data_dir: .}", path=tmp_path / "t.yaml")
    with pytest.raises(EnvironmentFault, match=r"cifar10\.zip"):
        datasets.kept(topology)
    assert datasets.kept(parse("{dataset: digits}")) is None


def test_the_models_of_the_presets_are_built_as_they_are_counted() -> None:
    for keys in PRESETS.values():
        assert keys["model"] in models._BUILDERS
