"""YAML text to plain data that remembers where each value stands (pure).

YAML is read by its version 1.2 rules for plain words: `off` and `no` are text, `1:30` is not a
number. Anchors and aliases work, bounded; tags and merge keys do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import yaml

from deploy.topology.problems import Loc, Place, Problem

MAX_BYTES: Final = 1 << 20
MAX_VALUES: Final = 100_000
_MAX_DEPTH: Final = 20
_TAG: Final = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the core schema of YAML 1.2."""

    yaml_implicit_resolvers: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]


for _tag, _regexp, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(_TAG + _tag, re.compile(f"^(?:{_regexp})$"), _first)


@dataclass(slots=True)
class Document:
    """The data of one file, with the place of every key and value, and what was wrong so far.

    `warnings` are what the user should know of a file that is right: how something was read that
    could be read otherwise, and what of it is not used.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def place(self, loc: Loc, *, key: bool = False) -> Place:
        """Where the value stands (or, with `key`, its key); of the nearest thing around it if it
        is not written anywhere."""
        for length in range(len(loc), -1, -1):
            for places in (self.keys, self.values) if key else (self.values, self.keys):
                if found := places.get(loc[:length]):
                    return found
        return Place(file=self.file)

    def report(self, loc: Loc, message: str, hint: str = "", *, key: bool = False) -> None:
        self.problems.append(Problem.at(self.place(loc, key=key), loc, message, hint))


def read(raw: bytes, *, file: str) -> Document:
    """Read a file's bytes; what is wrong is in the document's `problems`, nothing is raised."""
    document = Document(file=file)
    root = _compose(raw, document)
    if root is None:
        return document
    if not isinstance(root, yaml.MappingNode):
        document.report((), "the file must be a mapping of keys such as `nodes:` and `network:`")
        return document
    builder = _Builder(document)
    data = builder.build(root, ())
    document.data = {} if builder.gave_up else data
    return document


def override(document: Document, option: str) -> None:
    """Apply `KEY=VALUE`: `KEY` a dotted path, `VALUE` read as YAML."""
    key, equals, text = option.partition("=")
    place = Place(file=f"--set {option}")
    loc: Loc = tuple(
        int(step) if step.isdecimal() else step for step in re.split(r"[.\[]", key.replace("]", ""))
    )
    if not equals or "" in loc or not isinstance(loc[0], str):
        message = "write --set KEY=VALUE with a dotted key, such as network.link.rate=5mbit"
        document.problems.append(Problem.at(place, (), message))
        return
    value = Document(file=place.file)
    root = _compose(text.encode(), value)
    if root is None:
        document.problems += [Problem.at(place, loc, p.message, p.hint) for p in value.problems]
        return
    for places in (document.keys, document.values):
        for old in [old for old in places if old[: len(loc)] == loc]:
            del places[old]
    built = _Builder(document, fixed=place).build(root, loc)
    document.keys[loc] = place
    _assign(document, loc, built, place)


def _assign(document: Document, loc: Loc, value: Any, place: Place) -> None:
    """Put a value at `loc`, making the mappings on the way that are missing."""
    at: Any = document.data
    for depth, step in enumerate(loc):
        last = depth == len(loc) - 1
        if isinstance(at, list) and isinstance(step, int) and step < len(at):
            pass
        elif not isinstance(at, dict) or not isinstance(step, str):
            message = f"cannot be set: {at!r} has no {step!r} in it"
            document.problems.append(Problem.at(place, loc[: depth + 1], message))
            return
        elif not last and at.get(step) is None:
            at[step] = {}
            document.keys[loc[: depth + 1]] = document.values[loc[: depth + 1]] = place
        if last:
            at[step] = value
        else:
            at = at[step]


def _compose(raw: bytes, document: Document) -> yaml.Node | None:
    """Bytes to YAML nodes, or None with the reason in `document.problems`."""
    if len(raw) > MAX_BYTES:
        document.report((), f"the file has more than {MAX_BYTES >> 20} MiB", "use groups of nodes")
        return None
    try:
        text = raw.decode("utf-8-sig")
        root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError:
        document.report((), "this is not a text file: expected YAML in UTF-8")
        return None
    except yaml.reader.ReaderError as error:
        line = raw[: error.position].count(b"\n") + 1
        place = Place(file=document.file, line=line)
        code = error.character if isinstance(error.character, int) else ord(error.character)
        message = f"the character #x{code:02x} is not allowed in YAML"
        document.problems.append(Problem.at(place, (), message, "is this a text file?"))
        return None
    except yaml.MarkedYAMLError as error:
        _syntax_error(error, document)
        return None
    except RecursionError:
        document.report((), "nested too deeply")
        return None
    if root is None or (isinstance(root, yaml.ScalarNode) and not root.value and not root.style):
        document.report((), "empty: nothing is in it but white space and comments")
        return None
    return root


def _syntax_error(error: yaml.MarkedYAMLError, document: Document) -> None:
    mark = error.problem_mark or error.context_mark
    place = _place(document.file, mark) if mark else Place(file=document.file)
    message = f"not valid YAML: {error.problem or error.context}"
    hint = f"{error.context}" if error.problem and error.context else ""
    if "'\\t'" in message:
        hint = "a tab: indent with spaces"
    document.problems.append(Problem.at(place, (), message, hint))


def _place(file: str, mark: Any) -> Place:
    return Place(file=file, line=mark.line + 1, column=mark.column + 1)


class _Builder:
    """YAML nodes to data, noting the place of each value in the document.

    Args:
        fixed: the place of everything built, instead of lines of the file.
    """

    def __init__(self, document: Document, *, fixed: Place | None = None) -> None:
        self._document = document
        self._fixed = fixed
        self._left = MAX_VALUES
        self.gave_up = False
        """Whether it was too much, so that the data is not worth a look."""

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        """The data of a node; what cannot be read is reported and becomes None or is left out."""
        document = self._document
        document.values[loc] = self._place(node)
        self._left -= 1
        if self.gave_up:
            return None
        if self._left < 0 or len(loc) > _MAX_DEPTH:
            self.gave_up = True
            deep = "nested too deeply, or an alias of what it stands in"
            many = f"more than {MAX_VALUES} values (an alias counts each time)"
            document.report(loc[:2], many if self._left < 0 else deep)
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            items: Iterable[tuple[int, yaml.Node]] = enumerate(node.value)
            return [self.build(item, (*loc, i)) for i, item in items]
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        document, data = self._document, {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                place = self._place(key_node)
                document.problems.append(Problem.at(place, loc, "a key must be plain text"))
                continue
            key = key_node.value
            if key in data:
                first = document.keys[(*loc, key)]
                place, message = self._place(key_node), "this key stands here twice"
                hint = f"the first is in line {first.line}" if first.line else ""
                document.problems.append(Problem.at(place, (*loc, key), message, hint))
                continue
            document.keys[(*loc, key)] = self._place(key_node)
            data[key] = self.build(value_node, (*loc, key))
        return data

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        text, kind = str(node.value), node.tag.removeprefix(_TAG)
        try:
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return text.lower() == "true"
                case "int":
                    return int(text)
                case "float":
                    return float(text)
        except ValueError:
            self._document.report(loc, f"{text[:40]!r} is not a number that can be read")
            return None
        self._document.report(loc, f"the tag {node.tag!r} is not supported", "write plain YAML")
        return None

    def _place(self, node: yaml.Node) -> Place:
        return self._fixed or _place(self._document.file, node.start_mark)
