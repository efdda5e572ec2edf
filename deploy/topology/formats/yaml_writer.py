"""A topology file as YAML: what it says, no defaults, one line for each link and event (pure)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import yaml

from deploy.topology.model import TopologyFile

_WIDTH: Final = 100
_FLOW: Final = frozenset(
    {"links", "events", "edges", "link", "algorithm", "stop", "compute", "partition"}
)
"""Keys whose values, or the entries of whose lists, stand in one line."""
_FIRST: Final = ("at", "from", "to", "name")
_LAST: Final = ("back", "oneway")
_HEADINGS: Final = {
    "nodes": "Who takes part. A number is for so many alike; nothing is one node.",
    "network": "What is connected to what, and how fast.",
    "overlay": "Who exchanges with whom.",
    "events": "What happens while the run goes on; times are on the run clock.",
    "algorithm": "What is learnt, how, and when it ends.",
}


class _Line(dict[str, Any]):
    """A mapping that stands in one line."""


class _Pair(list[Any]):
    """A list that stands in one line."""


class _Dumper(yaml.SafeDumper):
    """No anchors; and what YAML 1.2 takes for a number is quoted where it is text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    _Line, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v, flow_style=True)
)
_Dumper.add_representer(
    _Pair, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True)
)
_Dumper.add_representer(type(None), lambda d, v: d.represent_scalar("tag:yaml.org,2002:null", ""))
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def to_data(file: TopologyFile) -> dict[str, Any]:
    """What the file gives, as plain data that reads back to the same file.

    What it does not give stays out, so that defaults and more general places go on to apply.
    """
    # No warnings: pydantic would write a link's two ends, a tuple that is a list in JSON, twice.
    data: dict[str, Any] = file.model_dump(
        mode="json", by_alias=True, exclude_unset=True, warnings=False
    )
    for name, group in data.get("nodes", {}).items():
        if {*group} == {"replicas"}:
            data["nodes"][name] = group["replicas"]
        elif not group:
            data["nodes"][name] = None
    if not data.get("overlay"):
        data.pop("overlay", None)
    return data


def to_yaml(file: TopologyFile, *, source: str = "") -> str:
    """The file as text, with a comment on each section.

    Args:
        source: what it was made from, for the head of the file.
    """
    head = f"# From {source}, by deploy convert.\n" if source else ""
    parts = [f"{head}# Every key is described in docs/topology.md.\n"]
    for key, value in to_data(file).items():
        heading = f"\n# {_HEADINGS[key]}\n" if key in _HEADINGS else ""
        parts.append(heading + _dump({key: _styled(value, key)}))
    return "".join(parts)


def _dump(data: Mapping[str, Any]) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, width=_WIDTH, sort_keys=False, allow_unicode=True)
    return text


def _styled(value: Any, key: str) -> Any:
    """Which mappings and lists stand in one line."""
    if isinstance(value, dict):
        if key in _FLOW:
            return _line(value)
        return {k: _styled(v, k) for k, v in value.items()}
    if isinstance(value, list):
        if key in _FLOW:
            return [_line(v) if isinstance(v, dict) else _Pair(v) for v in value]
        return _Pair(value)
    return value


def _line(value: dict[str, Any]) -> _Line:
    """In the order in which people say it: where, then what."""
    first = [key for key in _FIRST if key in value]
    last = [key for key in _LAST if key in value]
    rest = [key for key in value if key not in (*_FIRST, *_LAST)]
    return _Line({key: value[key] for key in (*first, *rest, *last)})
