"""A run folder's records, read into a `History`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploy.history import Ending, Event, History, of_kind
from deploy.order_files import read_orders
from deploy.orders import Order
from deploy.plan import Plan
from deploy.results import RunFolder
from node import metrics

_WORDS_MAX = 4096


def load_history(*, folder: RunFolder, plan: Plan, ending: Ending) -> History:
    """Read what the members wrote; missing files are empty, lines that are no event are counted."""
    names = [str(node.name) for node in plan.nodes]
    files = {"coordinator": folder.coordinator_file}
    files |= {name: folder.node_file(name) for name in names}
    read = {member: read_events(path) for member, path in files.items()}
    return History(
        plan=plan,
        nodes={name: read[name][0] for name in names},
        coordinator=read["coordinator"][0],
        garbled={member: count for member, (_, count) in read.items() if count},
        links=folder.read_json(folder.links_file),
        ending=ending,
        actions=read_events(folder.control_log)[0],
        orders=followed(folder, read["coordinator"][0]),
    )


def followed(folder: RunFolder, coordinator: Sequence[Event]) -> tuple[Order, ...]:
    """The orders that the coordinator has said that it follows, in order."""
    numbers = {
        event.get("number")
        for event in of_kind(coordinator, "control")
        if event.get("state") == "ordered"
    }
    return tuple(order for order in read_orders(folder) if order.number in numbers)


def read_events(path: Path) -> tuple[list[Event], int]:
    """The events of a file and the number of lines that are none."""
    reader = metrics.read_events(path)
    try:
        events: list[Event] = list(reader)
    except OSError:
        return [], 0
    return events, reader.skipped


def last_words(log: Path) -> str:
    """The last line in which a member told of an error, else its last; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _WORDS_MAX))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    newest = [line.strip() for line in reversed(lines) if line.strip()]
    return next((line for line in newest if "error" in line.lower()), (newest or [""])[0])
