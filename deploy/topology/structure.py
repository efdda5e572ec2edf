"""Data to model: keys, types and units, with pydantic's complaints put into our words (pure)."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deploy.topology.model import TopologyFile
from deploy.topology.problems import Loc, dotted, nearest
from deploy.topology.reader import Document
from node import algorithms


def _stand_ins() -> dict[str, Any]:
    """For parts of the file that are too broken to be read, so that the rest can be checked."""
    return {
        "name": "x",
        "nodes": 1,
        "network": {"shape": "full"},
        "algorithm": {"name": algorithms.names()[0]},
        "stop": {"rounds": 1},
    }


_KINDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "dict": "a mapping of keys",
    "model": "a mapping of keys",
    "tuple": "a list",
    "list": "a list",
}


def validate(document: Document) -> tuple[TopologyFile, frozenset[str]]:
    """The model, and the top-level keys that could not be read and hold a stand-in or default.

    What is wrong goes into the document's `problems`.
    """
    data = _without_nulls(document)
    if not document.problems:
        try:  # most files are right, and then once is enough
            return TopologyFile.model_validate(data), frozenset()
        except ValidationError:
            pass
    reported = {problem.key for problem in document.problems}
    broken = {re.split(r"[.\[]", key)[0] for key in reported}
    errors = _errors(data)
    for error in errors:
        if error["type"] != "missing" or dotted(_loc(error)) not in reported:
            _report(document, error)
    broken |= {str(loc[0]) for loc in map(_loc, errors) if not _harmless(loc)}
    left: dict[str, Any] = {k: v for k, v in data.items() if k not in broken}
    for error in errors:
        if _harmless(loc := _loc(error)):
            _remove(left, loc)
    left |= {k: v for k, v in _stand_ins().items() if k in broken}
    try:
        return TopologyFile.model_validate(left), frozenset(broken)
    except ValidationError:
        everything = frozenset(TopologyFile.model_fields)
        return TopologyFile.model_validate(_stand_ins()), everything


def _without_nulls(document: Document) -> dict[str, Any]:
    """A copy without the keys that have no value, each reported; a node alone needs none."""

    reported = {problem.key for problem in document.problems}

    def clean(value: Any, loc: Loc) -> Any:
        if isinstance(value, list):
            return [clean(item, (*loc, i)) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        kept = {}
        for key, item in value.items():
            at = (*loc, key)
            if item is None and loc != ("nodes",):
                if dotted(at) not in reported:
                    document.report(at, "no value", "give it one, or take the key away", key=True)
            else:
                kept[key] = clean(item, at)
        return kept

    cleaned: dict[str, Any] = clean(document.data, ())
    return cleaned


def _errors(data: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        TopologyFile.model_validate(data)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _loc(error: ErrorDetails) -> Loc:
    return tuple(step for step in error["loc"] if step != "[key]")


def _harmless(loc: Loc) -> bool:
    """Whether the rest of its section can be judged as if this value were not there."""
    match loc:
        case ("events", *_):
            return False
        case (*_, "rate" | "delay" | "jitter" | "loss" | "cpus" | "memory" | "pacing" | "metric"):
            return True
        case (*_, "link" | "compute" | "back", _):
            return True
        case ("network", "links", int(), key):
            return key not in ("from", "to")
        case ("training", *_, key):
            return key != "kind"
    return False


def _remove(data: Any, loc: Loc) -> None:
    """Take the value at `loc` away, if it is there."""
    for step in loc[:-1]:
        inside = isinstance(data, list) and isinstance(step, int) and step < len(data)
        data = data[step] if inside or (isinstance(data, dict) and step in data) else None
    if isinstance(data, dict):
        data.pop(loc[-1], None)


def _report(document: Document, error: ErrorDetails) -> None:
    """One of pydantic's errors as a problem of ours."""
    loc, kind, context = _loc(error), error["type"], error.get("ctx", {})
    given = error["input"]
    key = kind in ("missing", "extra_forbidden") or "[key]" in error["loc"]
    pair = loc[:3] if loc[:2] == ("overlay", "edges") or loc[2:3] == ("link",) else ()
    if pair and (kind in ("missing", "too_long") or (kind == "tuple_type" and loc == pair)):
        document.report(pair, "expected two names, such as [a, b]")
    elif kind == "missing":
        document.report(loc, "this key is missing", key=True)
    elif kind == "extra_forbidden":
        hint = nearest(loc[-1], _keys_at(loc[:-1]), what="keys here")
        document.report(loc, "unknown key", hint, key=True)
    elif kind in ("literal_error", "enum"):
        allowed = re.findall(r"'([^']*)'", str(context["expected"]))
        document.report(loc, f"{given!r} is not allowed", nearest(given, allowed, what="allowed"))
    elif kind == "too_short":
        document.report(loc, "must not be empty")
    elif kind == "value_error":
        document.report(loc, str(context["error"]), key=key)
    elif (base := kind.rsplit("_", 1)[0]) in _KINDS and kind.endswith(("_type", "_parsing")):
        document.report(loc, f"expected {_KINDS[base]}, not {_short(given)}")
    else:
        document.report(loc, f"{_lower(error['msg'])}, not {_short(given)}", key=key)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _lower(message: str) -> str:
    message = message.removeprefix("Input ")
    return message[:1].lower() + message[1:]


def _keys_at(loc: Loc) -> list[str]:
    """The keys that the mapping at `loc` may have."""
    kind: Any = TopologyFile
    for step in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            by_name = {field.alias or key: field for key, field in kind.model_fields.items()}
            kind = by_name[str(step)].annotation
        else:
            arguments = [a for a in typing.get_args(kind) if a is not Ellipsis]
            kind = arguments[-1]
        kind = _plain(kind)
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [field.alias or key for key, field in kind.model_fields.items()]


def _plain(kind: Any) -> Any:
    """Without `Annotated` and `| None`."""
    while typing.get_origin(kind) in (Annotated, types.UnionType, typing.Union):
        arguments: Iterable[Any] = typing.get_args(kind)
        kind = next(a for a in arguments if a is not type(None))
    return kind
