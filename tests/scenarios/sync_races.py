"""T10 to T12: what races with the model that a newcomer gets (frameworks.md, section 4.5)."""

from __future__ import annotations

import numpy as np

from node.core.ids import NodeId
from node.core.messages import PeerMessage
from node.core.model_sync import ANSWER, REQUEST
from tests.scenarios.scene import N0, N1, N2, N3, Scene, begun, complete, plan


def asked(scene: Scene, provider: NodeId) -> None:
    """Until a request for the model has come to this provider."""
    scene.until(lambda: scene.came(provider, REQUEST) > 0, limit_s=15)


def t10() -> str:
    """The provider dies before, and while, it gives the model."""
    texts = []
    for when in ("before", "during"):
        scene = begun(plan(4, standby=(N3,), ended=6))
        scene.until_round(1)
        scene.story.begin()
        scene.start(N3)
        provider = scene.until_recorded("sync", state="assigned")["provider"]
        if when == "during":
            asked(scene, provider)
            assert not scene.messages(N3, ANSWER), "the answer is under way"
        scene.crash(provider)
        scene.until_shared(N3)
        scene.story.finish()
        states = [(one["state"], one["provider"]) for one in scene.records("sync", member=N3)]
        assert states[0] == ("assigned", provider)
        assert ("failed", provider) in states, states
        assert states[-1][0] == "done"
        assert states[-1][1] not in (None, provider), "another one gave it"
        scene.end()
        assert scene.error is not None
        assert scene.error.startswith(f"{provider}: "), "only the one that died is named"
        others = tuple(name for name in (N0, N1, N2, N3) if name != provider)
        complete(scene, others, 5)
        texts.append(f"it dies {when}\n\n{scene.story.text()}")
    return "\n".join(texts)


def t11() -> str:
    """Two newcomers, one provider."""
    scene = begun(plan(3, standby=(N1, N2), ended=6, min_participants=1))
    scene.until_round(2)
    scene.story.begin()
    scene.start(N1)
    scene.start(N2)
    scene.until(lambda: scene.shares(N1) and scene.shares(N2), limit_s=20)
    scene.story.finish()
    done = scene.records("sync", state="done")
    assert {(one["member"], one["provider"]) for one in done} == {(N1, N0), (N2, N0)}
    scene.end()
    assert scene.error is None
    complete(scene, (N0, N1, N2), 5)
    for round_ in range(2):
        assert scene.share(N0, round_).missing == (), "the provider's rounds went on meanwhile"
    return scene.story.text()


def t12() -> str:
    """The provider's round ends while it gives the model."""
    scene = begun(plan(3, standby=(N2,), ended=6))
    scene.until_round(1)
    models: dict[tuple[NodeId, int], object] = {}

    def remember(driver: object, event: object, *_: object) -> None:
        for name in (N0, N1):
            machine = scene.node(name).machine
            models[(name, machine.aggregated[0])] = machine.aggregated[1]

    scene.world.watch.listeners.append(remember)
    scene.story.begin()
    scene.start(N2)
    provider = scene.until_recorded("sync", state="assigned")["provider"]
    asked(scene, provider)
    scene.story.say(f"what {provider} sends is held up until its round has ended")
    scene.hold(provider, N2)
    round_ = scene.node(provider).machine.round
    scene.until(lambda: scene.node(provider).machine.round > round_, limit_s=10)
    scene.let_go(provider, N2)
    done = scene.until_recorded("sync", state="done")
    given: list[PeerMessage] = scene.messages(N2, ANSWER)
    part = given[-1].part
    assert part is not None
    expected = models[(done["provider"], done["held"])]
    assert np.array_equal(part.values, expected), "one model, aggregated, not a mixture"  # type: ignore[arg-type]
    scene.until_shared(N2)
    scene.story.finish()
    scene.end()
    assert scene.error is None
    for number in range(scene.shares(N2)[0].round):
        complete(scene, (N0, N1), number)
    complete(scene, (N0, N1, N2), 5)
    return scene.story.text()
