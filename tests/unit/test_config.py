"""What a member is told survives the way through an environment variable, or is refused by name."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import node
from node.config import (
    AccessLink,
    AlgorithmConfig,
    ComputeConfig,
    CoordinatorConfig,
    Deadlines,
    Emulator,
    ExpectedPair,
    LinkPolicy,
    LinksConfig,
    NodeConfig,
    Pacing,
    PartitionConfig,
    PathSpec,
    PeerLink,
    StopConfig,
    TrainingConfig,
    from_json,
    to_json,
)
from node.core.ids import NodeId
from node.errors import ConfigError

numbers = st.integers(0, 2**53)
reals = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
names = texts.map(NodeId)
options = st.dictionaries(texts, st.none() | st.booleans() | numbers | reals | texts, max_size=4)
paths = st.builds(
    PathSpec, rate_bps=st.none() | numbers, delay_ns=numbers, jitter_ns=numbers, loss=reals
)
access = st.lists(st.builds(AccessLink, name=texts, rate_bps=st.none() | numbers), max_size=2).map(
    tuple
)
peers = st.builds(
    PeerLink,
    name=names,
    host=texts,
    port=numbers,
    out=st.none() | paths,
    into=st.none() | paths,
    up=st.none() | texts,
    down=st.none() | texts,
)
links = st.builds(
    LinksConfig,
    emulator=st.sampled_from(Emulator),
    policy=st.sampled_from(LinkPolicy),
    up=access,
    down=access,
    peers=st.lists(peers, max_size=3).map(tuple),
)
training = st.builds(
    TrainingConfig,
    dataset=texts,
    model=texts,
    batch_size=numbers,
    learning_rate=reals,
    momentum=reals,
    weight_decay=reals,
    partition=st.builds(PartitionConfig, kind=texts, shards=numbers, alpha=reals),
    data_dir=st.none() | texts,
    evaluate_every=numbers,
)
stops = st.builds(
    StopConfig, time_ns=numbers, rounds=st.none() | numbers, accuracy=st.none() | reals
)
deadlines = st.builds(Deadlines, join_ns=numbers, peer_ns=numbers)
members = st.lists(names, max_size=3).map(tuple)
nodes = st.builds(
    NodeConfig,
    session=texts,
    name=names,
    index=numbers,
    members=members,
    neighbours=members,
    seed=numbers,
    host=texts,
    port=numbers,
    coordinator_host=texts,
    coordinator_port=numbers,
    links=links,
    algorithm=st.builds(
        AlgorithmConfig, name=texts, options=options, pacing=st.sampled_from(Pacing)
    ),
    training=training,
    compute=st.builds(ComputeConfig, step_ns=st.none() | numbers, speed=reals),
    stop=stops,
    deadlines=deadlines,
    results=texts,
    owner=texts,
)
coordinators = st.builds(
    CoordinatorConfig,
    session=texts,
    members=members,
    seed=numbers,
    host=texts,
    port=numbers,
    policy=st.sampled_from(LinkPolicy),
    pairs=st.lists(
        st.builds(ExpectedPair, source=names, target=names, out=paths, back=paths), max_size=2
    ).map(tuple),
    training=training,
    stop=stops,
    deadlines=deadlines,
    results=texts,
    owner=texts,
)


@given(nodes)
def test_a_node_is_told_what_was_planned(config: NodeConfig) -> None:
    assert from_json(NodeConfig, to_json(config)) == config


@given(coordinators)
def test_the_coordinator_is_told_what_was_planned(config: CoordinatorConfig) -> None:
    assert from_json(CoordinatorConfig, to_json(config)) == config


@given(options)
def test_the_same_value_is_the_same_text(some: dict[str, Any]) -> None:
    backwards = dict(reversed(some.items()))
    one = AlgorithmConfig(name="a", options=some)
    assert to_json(one) == to_json(AlgorithmConfig(name="a", options=backwards))
    assert "\n" not in to_json(one)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"loss": "much"}, "PathSpec.loss: expected float, not 'much'"),
        ({"delay_ns": 1.5}, "PathSpec.delay_ns: expected int, not 1.5"),
        ({"delay_ns": True}, "PathSpec.delay_ns: expected int, not True"),
        ({"speed": 1}, "PathSpec: unknown key 'speed'"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], complaint: str) -> None:
    text = json.dumps({"rate_bps": 1} | changes)
    with pytest.raises(ConfigError, match=complaint):
        from_json(PathSpec, text)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"AccessLink: .*'name'"):
        from_json(AccessLink, "{}")


def test_the_place_of_a_wrong_value_is_named() -> None:
    text = json.dumps({"peers": [{"name": "a", "host": "h", "port": "x"}]})
    with pytest.raises(ConfigError, match=r"LinksConfig\.peers\[0\]\.port: expected int"):
        from_json(LinksConfig, text)
    with pytest.raises(ConfigError, match=r"LinksConfig\.emulator: 'wish' is not a valid Emulator"):
        from_json(LinksConfig, '{"emulator": "wish"}')


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[1"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        from_json(NodeConfig, text)


@pytest.mark.parametrize("text", ["[]", "3", "null"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a mapping"):
        from_json(NodeConfig, text)


def test_the_image_and_the_package_have_one_version() -> None:
    """The image holds the source, not an installed package; both must say the same."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == node.__version__
