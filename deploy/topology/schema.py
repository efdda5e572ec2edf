"""The JSON Schema of topology files, by which editors complete and check keys (pure)."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

from pydantic import TypeAdapter

from deploy.topology.model import TopologyFile
from deploy.topology.presets import PRESETS
from node import algorithms
from node.training import catalog


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12), with the algorithms, data sets and models that are known here."""
    made = TopologyFile.model_json_schema(by_alias=True)
    parts = made["$defs"]
    training = parts["Training"]["properties"]
    training["dataset"]["enum"] = list(catalog.DATASETS)
    own = {"type": "string", "pattern": f"^{catalog.OWN_MODEL.pattern}$"}
    training["model"]["anyOf"] = [{"enum": list(catalog.MODELS)}, own]
    training["preset"]["anyOf"][0]["enum"] = list(PRESETS)
    parts["Algorithm"] = _algorithm(parts["Algorithm"], parts)
    made["required"].remove("name")  # the file's own name is the default
    heading = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "topology.schema.json",
        "title": "peerbed topology",
    }
    tidied: dict[str, Any] = _tidy(made | heading)
    return tidied


def schema_text() -> str:
    """The schema as text: same value, same bytes."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def _algorithm(base: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    """One alternative for each algorithm, with its options; `parts` gains what those refer to."""
    alternatives = []
    for name in algorithms.names():
        config = algorithms.find(name).Config
        options = TypeAdapter(config).json_schema(ref_template="#/$defs/{model}")
        parts |= options.pop("$defs", {})
        meanings = _meanings(config)
        described = {
            key: option | ({"description": meanings[key]} if key in meanings else {})
            for key, option in options.get("properties", {}).items()
        }
        fixed = {"name": {"const": name}, "pacing": base["properties"]["pacing"]}
        alternatives.append(
            {
                "type": "object",
                "title": name,
                "properties": fixed | described,
                "required": ["name", *options.get("required", [])],
                "additionalProperties": False,
            }
        )
    names = {"type": "object", "properties": {"name": {"enum": list(algorithms.names())}}}
    return {"description": base["description"], "allOf": [names], "anyOf": alternatives}


def _meanings(config: type[Any]) -> dict[str, str]:
    """What the `Args:` of a class and its bases say about each option; the class has the last
    word."""
    meanings: dict[str, str] = {}
    for each in reversed(config.__mro__):
        text = inspect.cleandoc(each.__doc__ or "").partition("Args:\n")[2]
        found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", text, flags=re.MULTILINE)
        meanings |= {key: " ".join(meaning.split()) for key, meaning in found}
    return meanings


def _tidy(part: Any) -> Any:
    """Without defaults that nobody could write so (ns, bit/s, null, whole mappings), which the
    descriptions state in words, and without titles that only repeat the key."""
    if isinstance(part, list):
        return [_tidy(item) for item in part]
    if not isinstance(part, dict):
        return part
    if "default" in part and part["default"] is None:
        part = _without_null(part)
    written = part.get("type") != "string" or isinstance(part.get("default"), str)
    default = part.get("default")
    if "default" in part and not (written and isinstance(default, str | int | float)):
        part = {key: value for key, value in part.items() if key != "default"}
    if "description" in part and "title" in part and "properties" not in part:
        part = {key: value for key, value in part.items() if key != "title"}
    return {key: _tidy(value) for key, value in part.items()}


def _without_null(part: dict[str, Any]) -> dict[str, Any]:
    """A key that may be left out need not be null too."""
    rest = {key: value for key, value in part.items() if key not in ("anyOf", "default")}
    kinds = [kind for kind in part.get("anyOf", []) if kind != {"type": "null"}]
    return rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})
