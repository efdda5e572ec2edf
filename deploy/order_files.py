"""Orders to a run that is under way: `control/<number>.json` in its folder, whoever writes them.

The coordinator reads what is new there ten times a second and says in its records whether it
follows (`control`); what is done to nodes is done by the process that owns the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deploy.orders import Order, order_from_json
from deploy.results import RunFolder, writing
from node.errors import RunFailed
from node.runtime.control_folder import file_name

_LOCK_S: Final = 20
"""Whoever else gives an order has given it by then."""


def read_orders(folder: RunFolder) -> list[Order]:
    """All orders so far, by number; files that hold none are left out."""
    orders = []
    for path in folder.control.glob("[!.]*.json"):
        with contextlib.suppress(OSError, ValueError):
            orders.append(order_from_json(json.loads(path.read_bytes())))
    return sorted(orders, key=lambda order: order.number)


def write_order(folder: RunFolder, order: Order) -> Order:
    """Store an order under the next free number; returns it with that. Raises EnvironmentFault."""
    with writing(folder.path):
        make_folder(folder)
        number = max((int(p.stem) for p in folder.control.glob("[0-9]*.json")), default=0)
        while True:
            number += 1
            numbered = dataclasses.replace(order, number=number)
            if _stored(folder.control / file_name(number), numbered):
                return numbered


def make_folder(folder: RunFolder) -> None:
    """The folder for orders; members may read what is in it, whatever our umask."""
    folder.control.mkdir(exist_ok=True)
    folder.control.chmod(0o755)


def _stored(path: Path, order: Order) -> bool:
    """Write a file whole, unless there is one of that name."""
    descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(order.to_json(), stream, separators=(",", ":"))
        Path(scratch).chmod(0o644)
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        Path(scratch).unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def one_at_a_time(folder: RunFolder) -> Iterator[None]:
    """Orders for links build on those before: only one is made at a time.

    Raises:
        RunFailed: somebody else does not come to an end.
    """
    with contextlib.ExitStack() as stack:
        with writing(folder.path):
            make_folder(folder)
            file = stack.enter_context((folder.control / ".lock").open("a"))
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunFailed(
                        "another order for this run is still being given",
                        where=str(folder.control),
                        remedy="try again, or see who holds .lock there",
                    ) from None
                time.sleep(0.05)
        yield
