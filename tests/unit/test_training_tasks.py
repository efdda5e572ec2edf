"""Loss and metric of each task, against figures worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from node.config import PartitionConfig, TrainingConfig
from node.core.rng import stream
from node.training import data, tasks
from node.training.bench import Bench
from node.training.minibatches import Minibatches
from tests.unit.training_data import load, write_ratings


def test_ratings_are_clipped_and_judged_by_half_a_star(tmp_path: Path) -> None:
    goal = tasks.objective(load("movielens", write_ratings(tmp_path / "ratings.csv")))
    foretold, wanted = torch.tensor([9.0, 3.0, -2.0, 4.0]), torch.tensor([5.0, 3.5, 1.5, 2.0])
    score = goal.score(foretold, wanted)
    assert (score.right, score.predictions) == (2, 4)  # 5 for 9, and 3 for 3.5
    assert score.loss == pytest.approx(0.0 + 0.25 + 1.0 + 4.0)
    assert goal.total(score.loss / 4) == pytest.approx(math.sqrt(5.25 / 4))
    assert goal.loss(foretold, wanted).item() == pytest.approx((16 + 0.25 + 12.25 + 4) / 4)


def test_every_character_of_a_text_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc" * 100)
    goal = tasks.objective(load("text", tmp_path, context=4))
    wanted = torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    sure = torch.nn.functional.one_hot(wanted.long(), 3) * 50.0
    wrong = sure.clone()
    wrong[0, 0] = torch.tensor([0.0, 50.0, 0.0])
    assert goal.score(sure, wanted) == tasks.Score(right=8, predictions=8, loss=0.0)
    score = goal.score(wrong, wanted)
    assert (score.right, score.predictions) == (7, 8)
    assert score.loss == pytest.approx(50.0)
    assert goal.loss(wrong, wanted).item() == pytest.approx(50.0 / 8)


def test_classes_are_judged_by_the_largest_logit() -> None:
    goal = tasks.objective(data.load(TrainingConfig()))
    score = goal.score(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 0]))
    assert (score.right, score.predictions) == (1, 2)
    assert score.loss == pytest.approx(2 * math.log(1 + math.e) - 1)


def learnt(config: TrainingConfig, *, steps: int) -> list[tuple[float, float]]:
    """Accuracy and loss of one node before and after some steps with all the data."""
    bench = Bench(config, nodes=1, seed=1)
    model = bench.model()
    model.load(bench.initial())
    batches = Minibatches(
        bench.shares.train[0], batch_size=config.batch_size, rng=stream(1, "data", "n0")
    )
    found = [bench.evaluate(model, node=0, tick=lambda: None)]
    bench.train(model, batches=batches.take(steps), tick=lambda: None)
    return [*found, bench.evaluate(model, node=0, tick=lambda: None)]


def test_a_small_gpt_learns_a_text_that_repeats(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be, that is. " * 100)
    config = TrainingConfig(
        dataset="text", model="char-gpt", context=16, data_dir=str(tmp_path), learning_rate=0.1
    )
    (before, loss), (after, less) = learnt(config, steps=150)
    assert loss == pytest.approx(math.log(13), abs=0.5)
    assert before < 0.3
    assert after > 0.7
    assert less < 1


def test_matrix_factorisation_learns_whom_likes_what(tmp_path: Path) -> None:
    """Ratings of rank one: even users give the stars that odd users keep back."""
    lines = [
        f"{user},{film},{4.5 if (user + film) % 2 else 1.0},0"
        for user in range(20)
        for film in range(20)
    ]
    path = tmp_path / "ratings.csv"
    path.write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    config = TrainingConfig(
        dataset="movielens",
        model="matrix-factorisation",
        partition=PartitionConfig(kind="user"),
        data_dir=str(path),
    )
    (before, loss), (after, less) = learnt(config, steps=1500)
    assert before == 0.0  # near 3.5 stars, whatever the film
    assert loss == pytest.approx(math.sqrt((1.0**2 + 2.5**2) / 2), abs=0.1)
    assert after > 0.95
    assert less < 0.3


def test_evaluation_looks_at_the_samples_that_it_is_told() -> None:
    bench = Bench(TrainingConfig(), nodes=2, seed=1)
    model = bench.model()
    model.load(bench.initial())
    whole, _ = bench.evaluate(model, node=None, tick=lambda: None)
    inputs, labels = bench.material.test_inputs, bench.material.test_labels
    right = (model.module(inputs).argmax(dim=1) == labels).numpy()
    assert whole == pytest.approx(float(np.mean(right)))
    few = Bench(TrainingConfig(test_samples=20), nodes=2, seed=1)
    accuracy, _ = few.evaluate(model, node=0, tick=lambda: None)
    assert accuracy == pytest.approx(float(np.mean(right[few.shares.test])))
