"""Who gets the model from whom (coordinator): newcomers ask, providers are chosen and replaced.

A provider holds a model that was aggregated in the last completed round. Of several the newcomer's
neighbours come first, then who serves the fewest others, then who has most rounds behind it. One
that declined, did not deliver or is gone is not taken again before all others have been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from node.core.effects import Effect, Record, Send, Value
from node.core.ids import NodeId
from node.core.signals import ModelSyncRequest, SignalModelProvider, SignalNewPeer, SyncDecline
from node.core.standings import Overlay


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the model is to be had.

    Args:
        providers: who may give it, with the rounds behind their models.
        hopeless: nobody holds one, and nobody will: the initial model has to do.
    """

    providers: Mapping[NodeId, int]
    hopeless: bool


@dataclass(slots=True)
class _Sync:
    """One newcomer's.

    Args:
        number: of the present assignment; 0: none yet.
        provider: of it; None: nobody, or the initial model.
        failed: who was tried in vain.
    """

    number: int = 0
    provider: NodeId | None = None
    failed: set[NodeId] = field(default_factory=set)


class Syncs:
    """The model syncs under way.

    Args:
        overlay: who exchanges with whom.
        first: number of the first sync; greater than those that a coordinator before us gave.
    """

    def __init__(self, *, overlay: Overlay, first: int = 1) -> None:
        self._overlay = overlay
        self._syncs: dict[NodeId, _Sync] = {}
        self._next = first

    @property
    def newcomers(self) -> frozenset[NodeId]:
        """Who is getting the model at present."""
        return frozenset(self._syncs)

    def provider_of(self, newcomer: NodeId) -> NodeId | None:
        sync = self._syncs.get(newcomer)
        return sync.provider if sync is not None else None

    def request(
        self,
        newcomer: NodeId,
        signal: ModelSyncRequest,
        *,
        sources: Sources,
    ) -> list[Effect]:
        """A newcomer wants the model, or wants it from somebody else."""
        sync = self._syncs.setdefault(newcomer, _Sync())
        effects: list[Effect] = []
        if sync.number and signal.failed == sync.number:
            effects += self._fail(newcomer, sync, signal.reason)
        elif sync.number and (sync.provider is None or sync.provider in sources.providers):
            return self._tell(newcomer, sync)  # said before, and lost
        return [*effects, *self._assign(newcomer, sync, sources)]

    def decline(
        self,
        provider: NodeId,
        signal: SyncDecline,
        *,
        sources: Sources,
    ) -> list[Effect]:
        """A provider has nothing to give."""
        for newcomer, sync in self._syncs.items():
            if (sync.number, sync.provider) == (signal.sync, provider):
                failed = self._fail(newcomer, sync, signal.reason)
                rest = {n: held for n, held in sources.providers.items() if n != provider}
                again = self._assign(newcomer, sync, replace(sources, providers=rest))
                return [*failed, *again]
        return []

    def gone(self, member: NodeId, *, sources: Sources) -> list[Effect]:
        """A member is no longer there, as a newcomer or as a provider."""
        self._syncs.pop(member, None)
        effects: list[Effect] = []
        for newcomer, sync in self._syncs.items():
            if sync.provider == member:
                effects += self._fail(newcomer, sync, f"{member} is gone")
                effects += self._assign(newcomer, sync, sources)
        return effects

    def forget(self, newcomer: NodeId) -> None:
        """A newcomer that needs nothing after all."""
        self._syncs.pop(newcomer, None)

    def done(self, newcomer: NodeId, number: int, *, held: int) -> list[Effect]:
        """A newcomer has the model."""
        sync = self._syncs.pop(newcomer, None)
        if sync is None:
            return []
        return [_record(newcomer, number, sync.provider, "done", held=held)]

    def _assign(
        self,
        newcomer: NodeId,
        sync: _Sync,
        sources: Sources,
    ) -> list[Effect]:
        left = {name: held for name, held in sources.providers.items() if name not in sync.failed}
        if not left:
            sync.failed.clear()
            left = dict(sources.providers)
        left.pop(newcomer, None)
        if not left and not sources.hopeless:
            return []  # it asks again with its next heartbeat
        sync.number, self._next = self._next, self._next + 1
        sync.provider = min(
            left, key=lambda name: self._rank(newcomer, name, left[name]), default=None
        )
        state = "none" if sync.provider is None else "assigned"
        told = _record(newcomer, sync.number, sync.provider, state)
        return [told, *self._tell(newcomer, sync)]

    def _rank(self, newcomer: NodeId, provider: NodeId, held: int) -> tuple[bool, int, int, str]:
        far = frozenset({newcomer, provider}) not in self._overlay.of(newcomer)
        serves = sum(sync.provider == provider for sync in self._syncs.values())
        return far, serves, -held, provider

    def _tell(self, newcomer: NodeId, sync: _Sync) -> list[Effect]:
        answer = SignalModelProvider(sync=sync.number, provider=sync.provider or "")
        effects: list[Effect] = [Send(target=newcomer, message=answer)]
        if sync.provider is not None:
            order = SignalNewPeer(sync=sync.number, newcomer=newcomer)
            effects.append(Send(target=sync.provider, message=order))
        return effects

    def _fail(self, newcomer: NodeId, sync: _Sync, reason: str) -> list[Effect]:
        note = _record(newcomer, sync.number, sync.provider, "failed", reason=reason)
        if sync.provider is not None:
            sync.failed.add(sync.provider)
        sync.number, sync.provider = 0, None
        return [note]


def _record(
    newcomer: NodeId, number: int, provider: NodeId | None, state: str, **more: Value
) -> Effect:
    fields: dict[str, Value] = {"sync": number, "member": newcomer, "provider": provider}
    return Record(kind="sync", fields={**fields, "state": state, **more})
