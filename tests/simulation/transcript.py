"""A run as a story: messages as they arrive, and changes of state, in order, with times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from node.core.effects import Effect, Record
from node.core.events import Event, PeerChanged, Received
from node.core.ids import COORDINATOR
from node.core.messages import PeerMessage
from node.core.signals import Hello, Stamped, Welcome
from node.units import SECOND
from tests.simulation import trace

if TYPE_CHECKING:
    from tests.simulation.hosts import Driver
    from tests.simulation.world import World

_RECORDS: Final = {"rounds", "edge", "member", "sync", "waiting", "error", "stop", "finish"}
"""What the coordinator records that belongs into the story."""
_DULL_MEMBER_STATES: Final = {"stream up", "ready"}


class Transcript:
    """Collects lines from `begin` on; listens to a world's watch."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: list[str] = []
        self._from = world.now
        self._said: dict[tuple[str, str], str] = {}
        """What each has said last to each: said again with a heartbeat, it is no news."""
        self._over = False
        world.watch.listeners.append(self._step)

    def begin(self) -> None:
        """Forget what was before."""
        self.lines.clear()
        self._from = self.world.now

    def finish(self) -> None:
        """What follows is not of interest."""
        self._over = True

    def say(self, text: str) -> None:
        """Something that the scenario does."""
        self._line(f"*** {text}")

    def text(self) -> str:
        return "".join(line + "\n" for line in self.lines)

    def _line(self, text: str) -> None:
        if self._over:
            return
        self.lines.append(f"{(self.world.now - self._from) / SECOND:7.3f}  {text}")

    def _step(self, driver: Driver, event: Event, effects: list[Effect], before: Any) -> None:
        name = driver.host.name
        if isinstance(event, Received):
            self._received(driver, event)
        elif isinstance(event, PeerChanged) and driver.kind != "peer":
            self._line(f"{name} hears: the stream to {event.peer} is {event.change.value}")
        for effect in effects:
            if isinstance(effect, Record):
                self._record(driver, effect)

    def _received(self, driver: Driver, event: Received) -> None:
        name, message = driver.host.name, event.message
        if isinstance(message, PeerMessage):
            what = f"{message.kind}, round {message.round}"
            if message.attempt:
                what += f", attempt {message.attempt}"
            if message.fields:
                shown = {k: v for k, v in message.fields.items() if k != "sha256"}
                what += f" {trace.brief(shown)}"
            self._line(f"{event.sender} => {name}: {what}")
        elif not trace.dull(event):
            text = _signal(message)
            if self._said.get((event.sender, name)) != text:
                self._line(f"{event.sender} -> {name}: {text}")
            self._said[(event.sender, name)] = text

    def _record(self, driver: Driver, effect: Record) -> None:
        fields = effect.fields
        match driver.kind, effect.kind:
            case "coordinator", "rounds":
                at = f"round {fields['round']}, attempt {fields['attempt']}"
                self._line(f"    {COORDINATOR}: {fields['state']} ({at}): {fields['why']}")
            case "coordinator", "member" if fields["state"] not in _DULL_MEMBER_STATES:
                why = fields.get("error") or fields.get("why")
                said = f": {why}" if why else ""
                self._line(f"    {COORDINATOR}: {fields['member']} is {fields['state']}{said}")
            case "coordinator", kind if kind in _RECORDS and kind != "member":
                said = " ".join(f"{k} {trace.brief(v)}" for k, v in fields.items())
                self._line(f"    {COORDINATOR}: {kind}: {said}")
            case "member", "state":
                self._line(f"    {driver.host.name}: {fields['state']}")
            case "peer", "share":
                got, lack = fields["received"], fields["missing"]
                what = f"round {fields['round']} aggregated with {trace.brief(got)}"
                if lack:
                    what += f", without {trace.brief(lack)}"
                if fields["stale"]:
                    what += f", {fields['stale']} stale dropped"
                self._line(f"    {driver.host.name}: {what}")


def _signal(message: Stamped) -> str:
    """A signal by name, its stamp, and what it says."""
    stamp = f"({message.round}, {message.attempt})"
    if isinstance(message, Hello | Welcome):
        wanted = {
            Hello: ("stage", "held"),
            Welcome: ("need_sync",),
        }[type(message)]
        said = " ".join(f"{name} {getattr(message, name)}" for name in wanted)
        return f"{type(message).__name__} {stamp} {said}"
    words = trace.brief(message).split(" ")
    text = " ".join(words[1:])
    for name in ("round", "attempt"):
        text = text.replace(f"{name} {getattr(message, name)}", "", 1)
    return " ".join([words[0], stamp, *text.split()])
