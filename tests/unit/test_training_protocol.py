"""The line protocol between the node process and its trainer."""

from __future__ import annotations

import pytest

from node.config import TrainingConfig
from node.errors import ConfigError
from node.training.protocol import (
    Assignment,
    Fault,
    FaultKind,
    Ready,
    Stage,
    TensorShape,
    TrainAnswer,
    TrainRequest,
    Working,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "message",
    [
        Assignment(node="n0", index=0, nodes=3, seed=7, parent=1, training=TrainingConfig()),
        Assignment(node=None, index=0, nodes=1, seed=7, parent=1, training=TrainingConfig()),
        Ready(
            tensors=(TensorShape(name="w", shape=(2, 3)), TensorShape(name="b", shape=())),
            samples=3,
            label_counts=(1, 2),
            test_samples=4,
        ),
        TrainRequest(job=1, steps=2, since=4.5),
        TrainAnswer(job=1, steps=2, loss=0.1, compute_s=1e-9, padded_s=0.0, late_s=3.0, ended=9.0),
        Fault(stage=Stage.TRAIN, kind=FaultKind.DIVERGED, message="a\nb", remedy="c"),
        Working(),
    ],
)
def test_every_message_is_one_line_and_comes_back(message: object) -> None:
    line = encode(message)  # type: ignore[arg-type]
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_the_layout_lies_in_the_order_told() -> None:
    ready = Ready(
        tensors=(TensorShape(name="w", shape=(2, 3)), TensorShape(name="b", shape=(4,))),
        samples=0,
        label_counts=(),
        test_samples=0,
    )
    assert ready.layout.size == 10
    assert [slot.offset for slot in ready.layout.slots] == [0, 6]


@pytest.mark.parametrize("line", [b"\n", b"hello\n", b"Path {}\n"])
def test_another_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a line of the trainer protocol"):
        decode(line)


@pytest.mark.parametrize("line", [b"TrainRequest {}\n", b'TrainRequest {"job":1,"steps":"2"}\n'])
def test_wrong_fields_are_refused(line: bytes) -> None:
    with pytest.raises(ConfigError):
        decode(line)
