"""The documentation is followed literally."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from node import algorithms
from node.config import Mode, StopConfig
from node.core.effects import Send
from node.core.events import Received, ShareOpened, ShareSkipped, Started, Trained
from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.parts import Layout, Part, Whole
from node.core.peer import Peer, PeerSetting
from node.errors import ConfigError
from node.units import SECOND

ROOT = Path(__file__).parents[2]


class FoundPoint:
    """An entry point as an installed package would have it."""

    def __init__(self, name: str, target: type) -> None:
        self.name = name
        self._target = target

    def load(self) -> type:
        return self._target


def module_of(code: str, name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A page's code as a module."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, "adding-an-algorithm.md", "exec"), module.__dict__)
    return module


def test_the_synchronous_algorithm_of_the_guide_works(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs/adding-an-algorithm.md").read_text()
    _, code = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    kind = module_of(code, "mean_of_the_guide", monkeypatch).Mean
    me, other = NodeId("a"), NodeId("b")
    setting = PeerSetting(
        me=me,
        peers=(other,),
        members=2,
        seed=1,
        layout=Layout.of({"w": (3,)}),
        stop=StopConfig(time_ns=SECOND),
        mode=Mode.SYNC,
    )
    initial = np.zeros(3, dtype=np.float32)
    peer = Peer(setting=setting, algorithm=kind(kind.Config()), initial=initial)
    peer.step(Started(), now=0)
    two = np.full(3, 2, dtype=np.float32)
    peer.step(Trained(job=1, parameters=two, loss=1, steps=3), now=1)
    effects = peer.step(ShareOpened(round=0, attempt=1, peers=(other,)), now=2)
    (sent,) = (effect for effect in effects if isinstance(effect, Send))
    assert sent.message.part.values.tolist() == [2, 2, 2]
    part = Part(where=Whole(), values=np.full(3, 4, dtype=np.float32))
    theirs = PeerMessage(kind="model", round=0, attempt=1, part=part)
    peer.step(Received(sender=other, message=theirs), now=3)
    assert peer.aggregated[0] == 1
    assert peer.aggregated[1].tolist() == [3, 3, 3]
    peer.step(Trained(job=2, parameters=two, loss=1, steps=3), now=4)
    peer.step(ShareSkipped(round=1), now=5)
    assert peer.parameters.tolist() == [2, 2, 2]


def test_the_algorithm_of_the_guide_works(monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs/adding-an-algorithm.md").read_text()
    code, _ = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    module = module_of(code, "gossip_of_the_guide", monkeypatch)
    point = FoundPoint("gossip", module.Gossip)
    monkeypatch.setattr(algorithms, "entry_points", lambda group: [point])

    assert algorithms.names() == ("divshare", "dpsgd", "gossip")
    with pytest.raises(ConfigError, match="did you mean 'local_steps'"):
        algorithms.make("gossip", {"local_step": 3})
    names = (NodeId("a"), NodeId("b"))
    peers = [
        Peer(
            setting=PeerSetting(
                me=me,
                peers=tuple(name for name in names if name != me),
                members=2,
                seed=1,
                layout=Layout.of({"w": (3,)}),
                stop=StopConfig(time_ns=SECOND),
            ),
            algorithm=algorithms.make("gossip", {"local_steps": 3}),
            initial=np.zeros(3, dtype=np.float32),
        )
        for me in names
    ]
    for peer in peers:
        peer.step(Started(), now=0)
    two = np.full(3, 2, dtype=np.float32)
    effects = peers[0].step(Trained(job=1, parameters=two, loss=1, steps=3), now=1)
    (sent,) = (effect for effect in effects if isinstance(effect, Send))
    peers[1].step(Received(sender=names[0], message=sent.message), now=2)
    four = np.full(3, 4, dtype=np.float32)
    peers[1].step(Trained(job=1, parameters=four, loss=1, steps=3), now=3)
    assert peers[1].parameters.tolist() == [3, 3, 3]


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing, f"{page.name} points to {missing}"
