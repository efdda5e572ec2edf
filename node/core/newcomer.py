"""A latecomer on its way to the model: one provider after the other, until one delivers (pure).

The transfer itself is `node.core.model_sync.Fetch`; here is what is said to the coordinator of it.
"""

from __future__ import annotations

from typing import Final

from node.config import RoundsConfig
from node.core.effects import Effect
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import Fetch, Fetched
from node.core.parts import Vector
from node.core.signals import ModelSyncRequest, SignalModelProvider, SyncDone
from node.units import Nanos

MAX_FAILED_SYNCS: Final = 5
"""In a row, before a newcomer gives up."""


class Newcomer:
    """See the module. After each call `news` is what there is to say, once."""

    def __init__(self, *, rounds: RoundsConfig) -> None:
        self._rounds = rounds
        self._fetch = self._make_fetch(0)
        self._model: Fetched | None = None
        """What has come; None: nothing, or the initial model is it."""
        self._heard = 0
        """Newest number of a sync since the coordinator was last reached."""
        self._failed = 0
        self._request = ModelSyncRequest()
        self._news: SyncDone | ModelSyncRequest | None = None
        self.failure: str | None = None
        """Why there will be no model."""

    @property
    def request(self) -> ModelSyncRequest:
        """What to say as long as there is no model."""
        return self._request

    @property
    def done(self) -> SyncDone:
        """What to say once it is here."""
        if self._model is None:
            return SyncDone(sync=0, held=0)
        return SyncDone(sync=self._model.sync, held=self._model.held)

    def prepared(self, size: int) -> None:
        """The model has so many parameters."""
        self._fetch = self._make_fetch(size)

    def begin(self) -> ModelSyncRequest:
        """A model is needed."""
        self._model = None
        self._request = ModelSyncRequest()
        return self._request

    def reconnected(self) -> None:
        """Who answers may be a new coordinator, which may count from 1."""
        self._heard = 0

    def assigned(self, signal: SignalModelProvider, *, now: Nanos) -> list[Effect]:
        """Get the model from this provider; from nobody: the initial one is it."""
        if signal.sync <= self._heard:
            return []
        self._heard = signal.sync
        if not signal.provider:
            self._news = self.done
            return self._fetch.stop()
        provider = NodeId(signal.provider)
        if (signal.sync, provider) == self._fetch.current:
            return []
        return self._after(self._fetch.begin(signal.sync, provider, now=now))

    def receive(self, sender: NodeId, message: PeerMessage, *, now: Nanos) -> list[Effect]:
        return self._after(self._fetch.take(sender, message, now=now))

    def connected(self, peer: NodeId, *, now: Nanos) -> list[Effect]:
        return self._fetch.connected(peer, now=now)

    def timer(self, *, now: Nanos) -> list[Effect]:
        return self._after(self._fetch.timer(now=now))

    def stop(self) -> list[Effect]:
        return self._fetch.stop()

    def news(self) -> SyncDone | ModelSyncRequest | None:
        """What is new, once: the model is here, or another provider is needed."""
        news, self._news = self._news, None
        return news

    def take(self) -> tuple[int, Vector | None]:
        """The model is adopted: rounds behind it, and it; None: the initial one."""
        model, self._model = self._model, None
        self._failed = 0
        return (0, None) if model is None else (model.held, model.parameters)

    def _after(self, effects: list[Effect]) -> list[Effect]:
        """Take what the transfer has come to."""
        fetched, failure = self._fetch.fetched, self._fetch.failure
        self._fetch.fetched = self._fetch.failure = None
        if fetched is not None:
            self._model = fetched
            self._news = self.done
        elif failure is not None:
            self._failed += 1
            if self._failed >= MAX_FAILED_SYNCS:
                self.failure = f"no model after {self._failed} tries; the last: {failure}"
            else:
                self._request = ModelSyncRequest(failed=self._fetch.sync, reason=failure)
                self._news = self._request
        return effects

    def _make_fetch(self, size: int) -> Fetch:
        rounds = self._rounds
        patience = rounds.share_ns + rounds.sync_ns
        return Fetch(size=size, stall_ns=rounds.sync_ns, patience_ns=patience)
