"""What is done to nodes while a run goes on, by plan and by hand, by the process that owns the run.

    plan -------\\                  coordinator (expects what follows)
                 >-- order file --<
    deploy kill /                  this --backend.act--> container or process; control.jsonl

A planned action gets its order file a little ahead, so that the coordinator knows; it is done on
the run clock. Actions of the same time are done at the same time.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from deploy.backends.base import Backend
from deploy.follow import Tail
from deploy.order_files import read_orders, write_order
from deploy.orders import BY_HAND, BY_PLAN, Order, what_text
from deploy.plan import Plan, PlannedAction
from deploy.results import RunFolder
from node.errors import PeerbedError
from node.units import SECOND

_AHEAD_S: Final = 0.35
"""From the order file to the action: the coordinator looks every tenth of a second."""
_LOOK_S: Final = 0.05
_PATIENCE_S: Final = 1.0
"""For the coordinator to say that it follows an order by hand."""
_TOGETHER: Final = 64


class Actions:
    """See the module; `start` it, and `stop` it when the run is over.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        plan: Plan,
        backend: Backend,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._clock = clock
        self._planned = sorted(plan.actions, key=lambda action: action.at_ns)
        self._begun_at: float | None = None
        self._accepted: dict[int, bool] = {}
        """What the coordinator has said of orders, by number."""
        self._seen: set[int] = set()
        self._names: set[str] = set()
        self._waiting: list[tuple[Order, float]] = []
        """Orders by hand of which the coordinator has said nothing, and until when it may."""
        self._records = Tail(folder.coordinator_file)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="actions", daemon=True)
        self._pool = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="action")
        self.problems: list[str] = []
        """What went wrong in here, for the verdict."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and wait for what was begun."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause()):
                self._turn()
        except Exception as error:  # a defect of ours must not pass unseen
            self.problems.append(f"deploy itself failed: {type(error).__name__}: {error}")

    def _pause(self) -> float:
        """Until the next look, or until an order file is to be written."""
        if self._begun_at is None or not self._planned:
            return _LOOK_S
        next_at = self._begun_at + self._planned[0].at_ns / SECOND - _AHEAD_S
        return min(_LOOK_S, max(0.0, next_at - self._clock()))

    def _turn(self) -> None:
        for event in self._records.events():
            if event.get("kind") == "start" and isinstance(event.get("at_wall"), float | int):
                self._begun_at = float(event["at_wall"])
            elif event.get("kind") == "control" and isinstance(event.get("number"), int):
                self._accepted.setdefault(event["number"], event.get("state") == "ordered")
        self._plan()
        self._hand()

    # By plan -------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Order what comes next by plan; each action waits for its time by itself."""
        if self._begun_at is None:
            return
        now = self._clock()
        while self._planned and now >= self._begun_at + self._planned[0].at_ns / SECOND - _AHEAD_S:
            action = self._planned.pop(0)
            order = write_order(self._folder, _planned(action))
            self._seen.add(order.number)
            at = self._begun_at + action.at_ns / SECOND
            self._pool.submit(self._do, order, at)

    # By hand -------------------------------------------------------------------------------------

    def _hand(self) -> None:
        """Do what was ordered by hand, once the coordinator knows of it."""
        now = self._clock()
        for order in read_orders(self._folder) if self._news() else ():
            if order.number not in self._seen:
                self._seen.add(order.number)
                if order.kind == "node" and order.by == BY_HAND:
                    self._waiting.append((order, now + _PATIENCE_S))
        waiting, self._waiting = self._waiting, []
        for order, until in waiting:
            answer = self._accepted.get(order.number)
            if answer is None and now < until:
                self._waiting.append((order, until))
            elif answer is not False:
                self._pool.submit(self._do, order, now)

    def _news(self) -> bool:
        """Whether there are other files than at the last look."""
        names = {path.name for path in self._folder.control.glob("[!.]*.json")}
        before, self._names = self._names, names
        return names != before

    def _do(self, order: Order, at: float) -> None:
        """Do it at this Unix time, and record that."""
        try:
            if self._over.wait(max(0.0, at - self._clock())):
                return
            begun, error = self._clock(), None
            try:
                self._backend.act(self._folder, order.node, order.verb)
            except PeerbedError as fault:
                error = " ".join(str(fault).split())
            self._record(order, asked=at, begun=begun, done=self._clock(), error=error)
        except Exception as error:
            self.problems.append(f"deploy itself failed: {type(error).__name__}: {error}")

    def _record(
        self, order: Order, *, asked: float, begun: float, done: float, error: str | None
    ) -> None:
        zero = self._begun_at
        event: dict[str, Any] = {
            "t": None if zero is None else round(done - zero, 6),
            "wall": round(done, 6),
            "node": "deploy",
            "kind": "control",
            "number": order.number,
            "member": order.node,
            "verb": order.verb,
            "by": order.by,
            "what": list(order.what),
            "asked": None if zero is None else round(asked - zero, 6),
            "begun": None if zero is None else round(begun - zero, 6),
            "error": error,
        }
        append_event(self._folder, event)


def append_event(folder: RunFolder, event: Mapping[str, Any]) -> None:
    """A line more in `control.jsonl`, whole: several threads write there."""
    with folder.control_log.open("a") as file:
        file.write(json.dumps(event) + "\n")  # one write, at the end of the file


def _planned(action: PlannedAction) -> Order:
    what = what_text(action.verb, by=BY_PLAN, at_ns=action.at_ns)
    return Order(
        number=0,
        kind="node",
        by=BY_PLAN,
        at_ns=action.at_ns,
        what=(what,),
        node=action.node,
        verb=action.verb,
    )
