"""Kollaps' `activepaths` as edges of the overlay (pure)."""

from __future__ import annotations

import itertools
from typing import Final

from deploy.topology.formats.kollaps_file import File, Service
from deploy.topology.formats.kollaps_notes import Note
from deploy.topology.problems import Place, nearest

MAX_EDGES: Final = 50_000

Edges = list[tuple[list[str], Place]]


def edges(file: File) -> Edges | None:
    """Pairs of services that exchange, or None where no service restricts its paths.

    Two services exchange if one of them lists the other, or if neither has a list.
    """
    listing = {name: service for name, service in file.services.items() if service.active_paths}
    if not listing:
        return None
    found: dict[tuple[str, str], Place] = {}
    for name, service in listing.items():
        for other in _listed(service, file):
            if other != name or service.replicas > 1:
                found.setdefault((min(name, other), max(name, other)), service.place)
    free = [service for name, service in file.services.items() if name not in listing]
    if len(free) ** 2 > 2 * MAX_EDGES:
        message = f"activepaths for some of {len(file.services)} services"
        file.problem(free[0].place, message, "give every service its activepaths")
        return None
    for a, b in itertools.combinations_with_replacement(free, 2):
        if a is not b or a.replicas > 1:
            found.setdefault((min(a.name, b.name), max(a.name, b.name)), a.place)
    return [(list(pair), place) for pair, place in found.items()]


def _listed(service: Service, file: File) -> list[str]:
    """The services that one lists, by our names; what is no service is reported."""
    file.notes.add(Note.ACTIVE_PATHS, service.place, service.name)
    found = []
    for theirs in service.active_paths:
        ours = file.names.of(theirs)
        if ours in file.services and ours is not None:
            found.append(ours)
        elif theirs not in file.supervisors and theirs not in file.broken:
            hint = nearest(theirs, [s.theirs for s in file.services.values()], what="services")
            file.problem(service.place, f"activepaths: there is no service {theirs[:60]!r}", hint)
    return found
