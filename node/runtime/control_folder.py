"""Orders that `deploy` leaves in the run folder while the run goes on: `control/<number>.json`.

    {"number": 3, "kind": "links", "at_ns": 12300000000, "what": ["..."], "plans": {"n-0": {...}}}
    {"number": 4, "kind": "node", "node": "n-1", "verb": "crash", "what": ["..."]}

`plans` holds a `node.config.Replan` for each member that the order concerns. Files are complete
when they appear, and are only read. What is no order is refused, never fatal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from node.config import Replan, from_json
from node.core.events import LinksOrdered, NodeOrdered
from node.core.ids import NodeId
from node.errors import ConfigError

FOLDER: Final = "control"
LOOK_S: Final = 0.1
PLAN_MAX: Final = 2**20
"""Bytes of one member's plan: it travels in one signal."""
_FILE_MAX: Final = 2**28
_VERBS: Final = ("join", "leave", "crash", "pause", "resume", "restart", "return")

Order = LinksOrdered | NodeOrdered


class ControlFolder:
    """What is new in the folder; it need not exist."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def look(self) -> list[Order | ConfigError]:
        """Orders that have appeared since the last look, by number; what is none, as an error."""
        try:
            names = [file.name for file in self._path.glob("[!.]*.json")]
        except OSError:
            return []
        new = sorted((n for n in names if n not in self._seen), key=lambda n: (len(n), n))
        self._seen.update(new)
        return [_read(self._path / name) for name in new]


def _read(path: Path) -> Order | ConfigError:
    try:
        if path.stat().st_size > _FILE_MAX:
            raise ConfigError("too large", where=path.name)
        return order_from_json(path.read_bytes(), name=path.name)
    except OSError as error:
        return ConfigError(f"cannot be read: {error.strerror}", where=path.name)
    except ConfigError as error:
        return error


def order_from_json(data: bytes, *, name: str) -> Order:
    """The order in a file of this name. Raises ConfigError."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not JSON: {error}", where=name) from error
    if not isinstance(content, dict):
        raise ConfigError("not an object", where=name)
    try:
        return _order(content, name)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"not an order: {error!r}", where=name) from error


def _order(content: dict[str, Any], name: str) -> Order:
    number, what = content["number"], tuple(map(str, content["what"]))
    if not _whole(number) or name != file_name(number):
        raise ConfigError(f"number {number!r} in a file of this name", where=name)
    if content["kind"] == "node":
        if content["verb"] not in _VERBS:
            raise ConfigError(f"nothing that is done to a node: {content['verb']!r}", where=name)
        return NodeOrdered(
            number=number,
            node=NodeId(str(content["node"])),
            verb=content["verb"],
            what="; ".join(what),
        )
    if content["kind"] != "links" or not _whole(content["at_ns"]):
        raise ConfigError(f"an order of kind {content['kind']!r}", where=name)
    plans = {}
    for member, plan in content["plans"].items():
        text = json.dumps(plan, separators=(",", ":"))
        from_json(Replan, text)
        if len(text) > PLAN_MAX:
            raise ConfigError(f"the plan of {member} is larger than 1 MiB", where=name)
        plans[NodeId(member)] = text
    return LinksOrdered(number=number, at_ns=content["at_ns"], plans=plans, what=what)


def file_name(number: int) -> str:
    """Of an order."""
    return f"{number:06d}.json"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
