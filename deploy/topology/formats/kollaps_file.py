"""What is known of a Kollaps file while it is read: names, services, links, and how its attributes
are taken (pure).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from deploy.topology.formats import kollaps_values as values
from deploy.topology.formats.kollaps_notes import Note, Notes
from deploy.topology.formats.names import Names
from deploy.topology.formats.xml_tree import Element
from deploy.topology.problems import Place, Problem, nearest
from deploy.topology.reader import Document

MAX_PROBLEMS: Final = 200
_MAX_VALUE: Final = 10_000
_V = TypeVar("_V")


@dataclass(slots=True, kw_only=True)
class Service:
    """A service of the file.

    Args:
        name: ours; `theirs` is what the file says.
        replicas: as the attribute has it, until the schedule says how many there are at most.
        forwards: whether paths of others may lead through it.
    """

    name: str
    theirs: str
    place: Place
    replicas: int
    share: bool
    reuse: bool
    active_paths: list[str]
    forwards: bool = False


class TooManyProblems(Exception):
    """Enough is wrong; whoever has more has made one mistake in many places."""


@dataclass(slots=True, kw_only=True)
class File:
    """What is known of the file so far. Names of services, bridges and ends of links are ours."""

    document: Document
    names: Names
    notes: Notes = field(default_factory=Notes)
    services: dict[str, Service] = field(default_factory=dict)
    bridges: dict[str, Place] = field(default_factory=dict)
    supervisors: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    links: list[tuple[dict[str, Any], Place]] = field(default_factory=list)
    directions: dict[tuple[str, str], Place] = field(default_factory=dict)
    events: list[tuple[dict[str, Any], Place]] = field(default_factory=list)

    def problem(self, place: Place, message: str, hint: str = "") -> None:
        self.document.problems.append(Problem.at(place, (), message, hint))
        if len(self.document.problems) >= MAX_PROBLEMS:
            raise TooManyProblems

    def check_attributes(self, element: Element, known: Sequence[str]) -> None:
        """Report attributes that Kollaps does not have (it would overlook them)."""
        for key in element.attributes:
            if key not in known:
                hint = nearest(clip(key), known, what=f"attributes of {element}")
                self.problem(element.place, f"{element} has no attribute {clip(key)!r}", hint)

    def value(
        self, element: Element, key: str, parse: Callable[[str], _V], *, required: bool = False
    ) -> _V | None:
        """What the attribute says, or None where it is missing or wrong, which is reported."""
        text = element.attributes.get(key)
        if text is None:
            if required:
                self.problem(element.place, f"{element} needs the attribute {key!r}")
            return None
        try:
            if len(text) > _MAX_VALUE:
                raise ValueError(f"more than {_MAX_VALUE} characters")
            return parse(text)
        except ValueError as error:
            self.problem(element.place, f"{element} {key}: {error}")
            return None

    def end(self, element: Element, key: str) -> str | None:
        """The service or bridge that an attribute names; None if it has none or is left out."""
        theirs = element.attributes.get(key)
        if theirs is None:
            self.problem(element.place, f"{element} needs the attribute {key!r}")
        elif theirs in self.supervisors:
            self.notes.add(Note.SUPERVISOR, element.place, theirs)
        elif (ours := self.names.of(theirs)) is not None:
            return ours
        elif theirs not in self.broken:
            hint = nearest(clip(theirs), self.names.known(), what="services and bridges")
            message = f"{element} {key}: there is no service or bridge {clip(theirs)!r}"
            self.problem(element.place, message, hint)
        return None


def clip(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def children(element: Element, tag: str, file: File) -> list[Element]:
    """The children of a section, which all have one tag."""
    for child in element.children:
        if child.tag != tag:
            hint = nearest(clip(child.tag), [tag], what="tags here")
            file.problem(child.place, f"unknown tag <{clip(child.tag)}> in {element}", hint)
    return [child for child in element.children if child.tag == tag]


def add_link(element: Element, file: File) -> tuple[str, str] | None:
    """Read a link into `file.links`; its ends, or None where something is wrong with it."""
    a, b = file.end(element, "origin"), file.end(element, "dest")
    entry: dict[str, Any] = {"from": a, "to": b}
    entry |= link_values(element, file, required=("latency", "upload"))
    download = file.value(element, "download", values.rate)
    whole = download is not None or "download" not in element.attributes
    if a is None or b is None or not whole or not {"delay", "rate"} <= {*entry}:
        return None
    within = a == b and a in file.services
    if within and download not in (None, entry["rate"]):
        message = f"{element} between the replicas of {a!r}: upload and download differ"
        file.problem(element.place, message, "no replica is the origin: give both the same rate")
    elif download is None and not within:  # within a service every replica is an origin
        entry["oneway"] = True
    elif download != entry["rate"] and not within:
        entry["back"] = {"rate": download}
    file.links.append((entry, element.place))
    file.directions.setdefault((a, b), element.place)
    if not entry.get("oneway"):
        file.directions.setdefault((b, a), element.place)
    return a, b


def link_values(element: Element, file: File, *, required: Sequence[str] = ()) -> dict[str, str]:
    """What a link or a change says of one direction, by our keys: rate, delay, jitter, loss."""
    found = {
        "rate": file.value(element, "upload", values.rate, required="upload" in required),
        "delay": file.value(
            element, "latency", values.milliseconds, required="latency" in required
        ),
        "jitter": file.value(element, "jitter", values.milliseconds),
        "loss": file.value(element, "drop", values.probability),
    }
    return {key: value for key, value in found.items() if value is not None}
