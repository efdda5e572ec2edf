"""docs/topology.md describes every key, and its examples are topology files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from deploy.topology import model, parse_topology
from deploy.topology.shapes import SHAPES

TEXT = (Path(__file__).parents[2] / "docs" / "topology.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL)
REST = {
    "nodes": "nodes: 3\n",
    "network": "network: {shape: full}\n",
    "algorithm": "algorithm: {name: divshare}\n",
    "stop": "stop: {rounds: 1}\n",
}


def keys() -> Iterator[str]:
    """Every key that some mapping of the file takes."""
    for kind in vars(model).values():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from (field.alias or key for key, field in kind.model_fields.items())


@pytest.mark.parametrize("key", sorted({*keys()} - {"kind", "alpha"}))
def test_every_key_is_described(key: str) -> None:
    assert f"`{key}`" in TEXT


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_named(shape: str) -> None:
    assert f"`{shape}`" in TEXT


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_right(example: str) -> None:
    rest = "".join(text for key, text in REST.items() if f"{key}:" not in example)
    parse_topology((example + rest).encode(), path=Path("example.yaml"))


def test_sets_shown_are_right() -> None:
    shown = re.findall(r"^\$ deploy up (\S+) (.*--set.*)$", TEXT, flags=re.MULTILINE)
    assert len(shown) >= 3
    for file, rest in shown:
        path = Path(__file__).parents[2] / file
        options = [a or b for a, b in re.findall(r"--set (?:'([^']*)'|(\S+))", rest)]
        parse_topology(path.read_bytes(), path=path, overrides=options)
