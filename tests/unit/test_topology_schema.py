"""The JSON Schema that editors read: committed, equal to what we make, right about the examples."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deploy.topology import schema
from deploy.topology.schema import schema_text
from node import algorithms

TOPOLOGIES = Path(__file__).parents[2] / "topologies"
COMMITTED = TOPOLOGIES / "topology.schema.json"
EXAMPLES = sorted(TOPOLOGIES.glob("*.yaml"))


def test_the_committed_schema_is_ours() -> None:
    if os.environ.get("PEERBED_REWRITE"):
        COMMITTED.write_text(schema_text())
    assert COMMITTED.read_text() == schema_text(), (
        "made anew by: PEERBED_REWRITE=1 pytest tests/unit/test_topology_schema.py"
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_name_the_schema(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={COMMITTED.name}"


def properties(part: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The keys that a part of the schema describes, through references and alternatives."""
    if "$ref" in part:
        return properties(made["$defs"][part["$ref"].split("/")[-1]], made)
    found = dict(part.get("properties", {}))
    for alternative in [*part.get("anyOf", []), *part.get("allOf", [])]:
        found |= properties(alternative, made)
    return found


def test_an_editor_can_say_something_about_every_key() -> None:
    made = schema()
    todo: list[tuple[str, dict[str, Any]]] = list(properties(made, made).items())
    assert {key for key, _ in todo} >= {"nodes", "network", "overlay", "algorithm", "stop"}
    for part in made["$defs"].values():
        todo += properties(part, made).items()
    says = {"description", "$ref", "const", "enum"}
    assert [key for key, part in todo if not says & set(part)] == []


def test_words_and_units_are_in_it() -> None:
    made = schema()
    parts = made["$defs"]
    assert "random-regular" in parts["Network"]["properties"]["shape"]["enum"]
    assert "network" in parts["Overlay"]["properties"]["shape"]["enum"]
    names = parts["Algorithm"]["allOf"][0]["properties"]["name"]["enum"]
    assert names == list(algorithms.names())
    divshare = next(a for a in parts["Algorithm"]["anyOf"] if a["title"] == "divshare")
    assert "omega" in divshare["properties"]
    assert "mM" in parts["LinkOptions"]["properties"]["rate"]["pattern"]
    assert "name" not in made["required"]


def test_no_default_is_in_units_that_nobody_can_write() -> None:
    text = json.dumps(schema())
    assert "000000000," not in text.replace('"maximum": 1000000000,', "")


VALID = [yaml.safe_load(path.read_text()) for path in EXAMPLES]
BROKEN = {
    "unit": {"network": {"shape": "ring", "link": {"rate": 20}}},
    "byte rates": {"network": {"shape": "ring", "link": {"rate": "20MBps"}}},
    "key": {"netwrok": {}},
    "shape": {"network": {"shape": "rnig"}},
    "option": {"algorithm": {"name": "divshare", "omga": 1}},
    "algorithm": {"algorithm": {"name": "divsare"}},
}


@pytest.mark.parametrize("example", VALID, ids=[path.stem for path in EXAMPLES])
def test_an_editor_accepts_the_examples(example: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(example, schema())


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_an_editor_marks_mistakes(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(VALID[0] | change, schema())
