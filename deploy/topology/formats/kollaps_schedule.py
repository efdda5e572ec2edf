"""Kollaps' <dynamic> section to the events of our files (pure; docs/kollaps.md).

Events apply in order of time, simultaneous ones in the order of the file. An event for some of a
service's replicas is for those with the lowest numbers that it can be for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from deploy.topology.formats import kollaps_values as values
from deploy.topology.formats.kollaps_file import (
    File,
    Service,
    add_link,
    children,
    clip,
    link_values,
)
from deploy.topology.formats.kollaps_notes import Note
from deploy.topology.formats.xml_tree import Element
from deploy.topology.problems import Place, nearest

MAX_EVENTS: Final = 10_000
_SERVICE_ACTIONS: Final = ("join", "leave", "crash", "disconnect", "reconnect")
_OTHER_ACTIONS: Final = ("join", "leave")
_OF_A_NAME: Final = ("name", "time", "action", "amount")
_OF_A_LINK: Final = (
    "origin", "dest", "time", "action", "upload", "download", "latency", "jitter", "drop",
)  # fmt: skip
_TICK_S: Final = Decimal("0.5")
"""Kollaps' scheduler does one event in each."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One <schedule>: of a service or a bridge by `name`, or of a link by its ends."""

    element: Element
    at: Decimal
    action: str
    name: str = ""
    amount: int = 1
    ends: tuple[str, str] = ("", "")

    @property
    def place(self) -> Place:
        return self.element.place


@dataclass(slots=True, kw_only=True)
class Schedule:
    """The section's entries, each list in order of time."""

    services: dict[str, list[Entry]] = field(default_factory=dict)
    bridges: dict[str, list[Entry]] = field(default_factory=dict)
    links: list[Entry] = field(default_factory=list)


def read(section: Element, file: File) -> Schedule:
    """The entries of <dynamic>; services get as many replicas as their joins need."""
    schedule = Schedule()
    network: list[Entry] = []
    elements = children(section, "schedule", file)
    if len(elements) > MAX_EVENTS:
        file.problem(section.place, f"{len(elements)} events; at most {MAX_EVENTS}")
        elements = []
    for element in elements:
        entry = _entry(element, file)
        if entry is None:
            continue
        if entry.name in file.services:
            schedule.services.setdefault(entry.name, []).append(entry)
            continue
        network.append(entry)
        if entry.name:
            schedule.bridges.setdefault(entry.name, []).append(entry)
        else:
            schedule.links.append(entry)
    _timing(network, file)
    for entries in (*schedule.services.values(), *schedule.bridges.values(), schedule.links):
        entries.sort(key=lambda entry: entry.at)
    for name, service in file.services.items():
        _replicas(service, schedule.services.get(name, []), file)
    return schedule


def _entry(element: Element, file: File) -> Entry | None:
    """One entry, or None where something is wrong with it or it names the supervisor."""
    of_a_link = "origin" in element.attributes or "dest" in element.attributes
    if of_a_link and "name" in element.attributes:
        file.problem(element.place, f"{element}: either `name`, or `origin` and `dest`, not both")
        return None
    file.check_attributes(element, _OF_A_LINK if of_a_link else _OF_A_NAME)
    at = file.value(element, "time", values.seconds, required=True)
    action = element.attributes.get("action", "")
    if of_a_link:
        origin, dest = file.end(element, "origin"), file.end(element, "dest")
        if not _allowed(element, (*_OTHER_ACTIONS, ""), file):
            return None
        if at is None or origin is None or dest is None:
            return None
        return Entry(element=element, at=at, action=action, ends=(origin, dest))
    name = file.end(element, "name")
    amount = file.value(element, "amount", values.whole)
    known = _OTHER_ACTIONS if name in file.bridges else _SERVICE_ACTIONS
    if name is None or not _allowed(element, known, file) or at is None:
        return None
    if "amount" in element.attributes and (amount is None or name in file.bridges):
        if amount is not None:
            file.problem(element.place, f"{element} amount: a bridge is only one")
        return None
    return Entry(element=element, at=at, action=action, name=name, amount=amount or 1)


def _allowed(element: Element, known: tuple[str, ...], file: File) -> bool:
    action = element.attributes.get("action")
    if action is None and "" not in known:
        file.problem(element.place, f"{element} needs the attribute 'action'")
    elif action is not None and (action not in known or not action):
        hint = nearest(clip(action), [word for word in known if word], what="allowed")
        file.problem(element.place, f"{element} action: {clip(action)!r} is not allowed", hint)
    else:
        return True
    return False


def _timing(entries: list[Entry], file: File) -> None:
    """Notes on changes of the network that Kollaps would make otherwise in time (traps 5, 6)."""
    last = Decimal(0)
    for entry in entries:
        if entry.at < last:
            file.notes.add(Note.ORDER, entry.place, f"time {values.moment(entry.at)}")
        last = max(last, entry.at)
    close: dict[int, Entry] = {}
    ordered = sorted(entries, key=lambda entry: entry.at)
    for before, after in itertools.pairwise(ordered):
        if after.at - before.at < _TICK_S:
            close |= {id(before): before, id(after): after}
    if close:
        first = min(close.values(), key=lambda entry: entry.place.line or 0)
        file.notes.add(Note.TOGETHER, first.place, str(len(close)))


# Services -----------------------------------------------------------------------------------------


def _replicas(service: Service, entries: list[Entry], file: File) -> None:
    """How many replicas there are at most: what is joined at once, or ever if none is reused."""
    joins = [entry.amount for entry in entries if entry.action == "join"]
    if not joins:
        file.notes.add(Note.NEVER_STARTS, service.place, service.name)
        return
    here = most = 0
    for entry in entries:
        if entry.action in ("join", "leave", "crash"):
            here += entry.amount if entry.action == "join" else -entry.amount
            most = max(most, here)
    service.replicas = most if service.reuse else sum(joins)


class _Members:
    """Which replicas of a service are there, and which are disconnected."""

    def __init__(self, service: Service, *, joins: bool) -> None:
        every = range(service.replicas)
        self._reuse = service.reuse
        self.joined = set() if joins else set(every)
        self.used: set[int] = set()
        self.free = set(every) if joins else set()
        self.disconnected: set[int] = set()

    def candidates(self, action: str) -> set[int]:
        """Those that an action can be for."""
        match action:
            case "join":
                return self.free
            case "disconnect":
                return self.joined - self.disconnected
            case "reconnect":
                return self.disconnected
        return self.joined

    def do(self, action: str, chosen: list[int]) -> None:
        match action:
            case "join":
                self.joined |= {*chosen}
                self.used |= {*chosen}
                self.free -= {*chosen}
            case "disconnect":
                self.disconnected |= {*chosen}
            case "reconnect":
                self.disconnected -= {*chosen}
            case _:
                self.joined -= {*chosen}
                if self._reuse:
                    self.free |= {*chosen}


_CANNOT: Final = {
    "join": "joins {} replicas where only {} can join",
    "leave": "takes {} replicas away where only {} are there",
    "crash": "crashes {} replicas where only {} are there",
    "disconnect": "disconnects {} replicas where only {} are there and connected",
    "reconnect": "reconnects {} replicas where only {} are disconnected",
}
_OURS: Final = {"disconnect": "down", "reconnect": "up"}


def _service(service: Service, entries: list[Entry], file: File) -> None:
    """The events of one service."""
    joins = any(entry.action == "join" for entry in entries)
    members = _Members(service, joins=joins)
    for entry in entries:
        possible = members.candidates(entry.action)
        if entry.amount > len(possible):
            what = _CANNOT[entry.action].format(entry.amount, len(possible))
            when = values.moment(entry.at)
            file.problem(entry.place, f"{entry.element}: {what}: {service.theirs!r} at {when}")
            return
        if entry.action == "reconnect" and joins and 2 * entry.amount > len(possible):
            file.notes.add(Note.RECONNECT, entry.place, service.name)
        chosen = sorted(possible)[: entry.amount]
        before = {*members.used}
        members.do(entry.action, chosen)
        if entry.action == "join" and entry.at == 0:
            continue  # it is there from the start
        if len(chosen) < service.replicas and len(chosen) < len(possible):
            file.notes.add(Note.WHICH, entry.place, service.name)
        again = before & {*chosen} if entry.action == "join" else set()
        for key, some in (
            ("restart", sorted(again)),
            (_OURS.get(entry.action, entry.action), [i for i in chosen if i not in again]),
        ):
            whole = len(some) == service.replicas
            for name in [service.name] if whole else [f"{service.name}-{i}" for i in some]:
                add(file, entry.at, {key: name}, entry.place)


def add(file: File, at: Decimal, event: dict[str, Any], place: Place) -> None:
    file.events.append(({"at": values.moment(at), **event}, place))
    if len(file.events) > 2 * MAX_EVENTS:
        file.problem(place, f"more than {2 * MAX_EVENTS} events of single replicas")
        raise Overflow


class Overflow(Exception):
    """More events than are worth expanding."""


# Bridges and links --------------------------------------------------------------------------------


def _presence(
    entries: list[Entry], what: str, say: Callable[[Entry], dict[str, Any]], file: File
) -> None:
    """Leaves and joins of one thing as down and up. What joins first is down until then."""
    there = True
    for number, entry in enumerate(entries):
        if entry.action == "join" and number == 0:
            if entry.at == 0:
                continue
            add(file, Decimal(0), {"down": say(entry)["of"]} | say(entry)["way"], entry.place)
            there = False
        if there == (entry.action == "join"):
            subject = f"{entry.action} of {what} at {values.moment(entry.at)}"
            file.notes.add(Note.NO_EFFECT, entry.place, subject)
            continue
        there = entry.action == "join"
        key = "up" if there else "down"
        add(file, entry.at, {key: say(entry)["of"]} | say(entry)["way"], entry.place)


def _bridge(name: str, entries: list[Entry], file: File) -> None:
    _presence(entries, name, lambda entry: {"of": name, "way": {}}, file)


def _links(entries: list[Entry], file: File) -> None:
    """Changes, leaves and joins of links, each direction by itself."""
    coming: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        a, b = entry.ends
        given = {*_OF_A_LINK[4:]} & {*entry.element.attributes}
        if entry.action:
            ways = _new_link(entry, file) if entry.action == "join" else [entry.ends]
            for way in ways:
                coming.setdefault(way, []).append(entry)
            if entry.action == "leave" and (b, a) in file.directions:
                file.notes.add(Note.ONE_DIRECTION, entry.place, f"{a} -> {b}")
            if entry.action == "leave" and given:
                what = f"{entry.element}: a link that leaves has no {', '.join(sorted(given))}"
                file.problem(entry.place, what)
        elif not given:
            file.problem(entry.place, f"{entry.element}: changes nothing of {a} -> {b}")
        if entry.ends not in file.directions:
            hint = f"there is one from {b} to {a}" if (b, a) in file.directions else ""
            file.problem(entry.place, f"there is no link from {a!r} to {b!r}", hint)
        elif not entry.action:
            _change(entry, file)
        _shared(entry, file)
    for (a, b), about in coming.items():
        if (a, b) in file.directions:
            said = {"of": [a, b], "way": {"oneway": True}}
            _presence(about, f"{a} -> {b}", lambda entry, said=said: said, file)  # type: ignore[misc]


def _new_link(entry: Entry, file: File) -> list[tuple[str, str]]:
    """The directions that a join is for; a link that is not in <links> is made."""
    a, b = entry.ends
    if (a, b) not in file.directions:
        before = {*file.directions}
        add_link(entry.element, file)
        return [way for way in ((a, b), (b, a)) if way in file.directions and way not in before]
    if {*_OF_A_LINK[4:]} & {*entry.element.attributes}:
        file.notes.add(Note.LINK_IS_BACK, entry.place, f"{a} -> {b}")
    if (b, a) in file.directions:
        file.notes.add(Note.ONE_DIRECTION, entry.place, f"{a} -> {b}")
    return [(a, b)]


def _change(entry: Entry, file: File) -> None:
    """New values of a link: `download` says whether of both directions (trap 8)."""
    a, b = entry.ends
    options = link_values(entry.element, file)
    download = file.value(entry.element, "download", values.rate)
    back = (b, a) in file.directions
    place, event = entry.place, dict[str, Any]()
    if a == b or (download is not None and back):
        event = {"link": [a, b]}
        if options:
            event["set"] = options
        if download is not None and download != options.get("rate"):
            event["back"] = {"rate": download}
    elif options:
        event = {"link": [a, b], "oneway": True, "set": options}
        if back:
            file.notes.add(Note.ONE_DIRECTION, place, f"{a} -> {b}")
    if download is not None and not back:
        file.notes.add(Note.NO_EFFECT, place, f"download of {a} -> {b}, which has no way back")
    if event:
        add(file, entry.at, event, place)


def _shared(entry: Entry, file: File) -> None:
    for end in entry.ends:
        service = file.services.get(end)
        if service is not None and service.share and service.replicas > 1:
            file.notes.add(Note.SHARED_LINK, entry.place, " -> ".join(entry.ends))


def expand(schedule: Schedule, file: File) -> None:
    """Put the events into the file, in order of time."""
    try:
        for name, entries in schedule.services.items():
            _service(file.services[name], entries, file)
        for name, entries in schedule.bridges.items():
            _bridge(name, entries, file)
        _links(schedule.links, file)
    except Overflow:
        return

    def order(event: tuple[dict[str, Any], Place]) -> tuple[Decimal, int, int]:
        data, place = event
        return Decimal(data["at"].removesuffix("s")), place.line or 0, place.column or 0

    file.events.sort(key=order)
