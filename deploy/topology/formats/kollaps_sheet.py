"""What a Kollaps file says, as rows, and its text (pure).

Topology --kollaps_writer--> Sheet --text--> XML
"""

from __future__ import annotations

import xml.etree.ElementTree as ET  # only to write
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from node.config import PathSpec
from node.units import MILLISECOND, SECOND, Nanos

BOOT: Final = "kollaps:2.0"
NETWORK: Final = "kollaps_network"
MOST_BPS: Final = 400 * 10**9
"""Written where a rate is unlimited, which Kollaps cannot say."""


class CannotSay(Exception):
    """Kollaps has no way to say something that the network depends on."""


@dataclass(slots=True, kw_only=True)
class ServiceRow:
    """One <service>."""

    name: str
    replicas: int = 1
    share: bool = False
    paths: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class LinkRow:
    """One <link>; without `back` it is one-way."""

    origin: str
    dest: str
    there: PathSpec
    back: PathSpec | None


@dataclass(slots=True, kw_only=True)
class EventRow:
    """One <schedule>: attributes other than its time."""

    at_ns: Nanos
    attributes: dict[str, str]


@dataclass(slots=True, kw_only=True)
class Sheet:
    """A whole file."""

    metric: str
    services: list[ServiceRow] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    links: list[LinkRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)

    def text(self, *, image: str, comment: str) -> str:
        """As XML.

        Args:
            image: of all services.
            comment: for the head of the file.
        """
        root = ET.Element("experiment", boot=BOOT)
        root.append(ET.Comment(f" {comment.replace('--', '- -')} "))
        if self.metric != "hop":
            ET.SubElement(ET.SubElement(root, "config"), "path", shortest_path=self.metric)
        section = ET.SubElement(root, "services")
        for service in self.services:
            ET.SubElement(section, "service", _service(service, image))
        if self.bridges:
            section = ET.SubElement(root, "bridges")
            for name in self.bridges:
                ET.SubElement(section, "bridge", name=name)
        section = ET.SubElement(root, "links")
        for link in self.links:
            for attributes in _link(link):
                ET.SubElement(section, "link", attributes)
        if self.events:
            section = ET.SubElement(root, "dynamic")
            for event in self.events:
                what = dict(event.attributes)
                whose = {key: what.pop(key) for key in ("name", "origin", "dest") if key in what}
                time = {"time": _decimal(Decimal(event.at_ns) / SECOND)}
                ET.SubElement(section, "schedule", whose | time | what)
        ET.indent(root, "  ")
        head = '<?xml version="1.0" encoding="UTF-8"?>\n'
        return head + ET.tostring(root, encoding="unicode") + "\n"


def _service(service: ServiceRow, image: str) -> dict[str, str]:
    attributes = {"name": service.name, "image": image}
    if service.replicas > 1:
        attributes["replicas"] = str(service.replicas)
    if service.share:
        attributes["share"] = "true"
    if service.paths:
        attributes["activepaths"] = "[" + ",".join(f"'{name}'" for name in service.paths) + "]"
    return attributes


def _link(link: LinkRow) -> Iterator[dict[str, str]]:
    """One <link>, or two where the ways differ in more than their rate."""
    ends = {"origin": link.origin, "dest": link.dest}
    turned = {"origin": link.dest, "dest": link.origin}
    there, back = values(link.there), None if link.back is None else values(link.back)
    network = {"network": NETWORK}
    if back is None:
        yield ends | there | network
    elif there | {"upload": ""} == back | {"upload": ""}:
        yield ends | there | {"download": back["upload"]} | network
    else:
        yield ends | there | network
        yield turned | back | network


def values(spec: PathSpec) -> dict[str, str]:
    """One direction's attributes. Raises CannotSay by name."""
    if cannot := unsayable(spec):
        raise CannotSay(", ".join(cannot))
    attributes = {"latency": milliseconds(spec.delay_ns), "upload": rate(spec.rate_bps)}
    if spec.jitter_ns:
        attributes["jitter"] = milliseconds(spec.jitter_ns)
    if spec.loss:
        attributes["drop"] = share(spec.loss)
    return attributes


def unsayable(spec: PathSpec) -> list[str]:
    """The keys of a link that Kollaps has no attribute for."""
    given: Mapping[str, object] = {
        "burst": spec.burst,
        "duplicate": spec.duplicate,
        "corrupt": spec.corrupt,
        "reorder": spec.reorder,
        "slot": spec.slot,
        "order": not spec.ordered,
        "queue": spec.queue_bytes,
    }
    return [key for key, value in given.items() if value]


def milliseconds(nanos: Nanos) -> str:
    return _decimal(Decimal(nanos) / MILLISECOND)


def share(value: float) -> str:
    return _decimal(Decimal(repr(value)))


def rate(bps: int | None) -> str:
    """In the largest whole unit. Raises CannotSay for a rate that is no whole Kbps."""
    value = MOST_BPS if bps is None else bps
    for unit, factor in (("G", 10**9), ("M", 10**6), ("K", 10**3)):
        if value % factor == 0:
            return f"{value // factor}{unit}bps"
    raise CannotSay(f"the rate of {value} bit/s, which is no whole number of Kbps")


def _decimal(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
