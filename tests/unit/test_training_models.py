"""Models as flat vectors, initial values, minibatches, and SGD against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from node.config import TrainingConfig
from node.core.parts import Vector
from node.core.rng import stream
from node.errors import ConfigError
from node.training import data, material, models, nets, sgd
from node.training.catalog import MODELS, PARAMETERS
from node.training.dataset import Array, Dataset, Problem, Task
from node.training.minibatches import Minibatches

DIGITS = Problem(task=Task.CLASS, shape=(8, 8), classes=10)
PROBLEMS = {
    "digits": DIGITS,
    "cifar10": Problem(task=Task.CLASS, shape=(3, 32, 32), classes=10),
    "movielens": Problem(task=Task.RATING, shape=(2,), classes=1, sizes=(610, 9_724)),
    "text": Problem(task=Task.NEXT_TOKEN, shape=(64,), classes=65, sizes=(65,)),
}
"""The sets that the catalog counts parameters for; of the text the one that people use."""


def flat(name: str, problem: Problem = DIGITS) -> models.FlatModel:
    return models.FlatModel(models.build(TrainingConfig(model=name), problem))


def start(name: str, problem: Problem = DIGITS, *, seed: int = 1) -> Vector:
    return models.initial(TrainingConfig(model=name), problem, seed=seed)


def digits() -> material.Material:
    return material.of(data.load(TrainingConfig()))


def batches(*, samples: int = 40, batch_size: int = 16) -> Minibatches:
    return Minibatches(np.arange(samples), batch_size=batch_size, rng=stream(1, "data", "n0"))


@pytest.mark.parametrize(("dataset", "name"), PARAMETERS)
def test_parameter_counts_are_those_of_the_catalog(dataset: str, name: str) -> None:
    assert flat(name, PROBLEMS[dataset]).layout.size == PARAMETERS[dataset, name]


def test_every_model_of_the_catalog_is_counted_and_trains() -> None:
    """One step from the initial vector lowers the loss on the batch that it was made with."""
    assert {name for _, name in PARAMETERS} == set(MODELS)
    for dataset, name in PARAMETERS:
        made = toy(PROBLEMS[dataset])
        config = TrainingConfig(model=name, learning_rate=0.001, batch_size=4)
        model = flat(name, made.problem)
        model.load(start(name, made.problem))
        step = np.arange(4).reshape(1, 4)
        before = sgd.train(model, config=config, material=made, batches=step, tick=lambda: None)
        after = sgd.train(model, config=config, material=made, batches=step, tick=lambda: None)
        assert after < before, name


def toy(problem: Problem) -> material.Material:
    """Four samples of noise with different answers."""
    rng = stream(1, "data")
    shape, sizes = (4, *problem.shape), problem.sizes
    inputs: Array = rng.standard_normal(shape, dtype=np.float32)
    labels: Array = np.arange(4, dtype=np.int64)
    if problem.task is Task.RATING:
        inputs = np.stack([rng.integers(0, size, 4) for size in sizes], axis=1)
        labels = np.array([1, 5, 2, 4], dtype=np.float32)
    if problem.task is Task.NEXT_TOKEN:
        inputs, labels = (rng.integers(0, 65, shape).astype(np.uint8) for _ in range(2))
    return material.of(
        Dataset(
            problem=problem,
            inputs=inputs,
            labels=labels,
            test_inputs=inputs,
            test_labels=labels,
            groups=np.zeros(4, dtype=np.int64),
            group_count=1,
        )
    )


def test_a_convolution_by_patches_is_one_whose_stride_is_its_size() -> None:
    patches = nets.Patches(3, 5, size=2)
    weight = patches.mix.weight.view(5, 2, 2, 3).permute(0, 3, 1, 2)
    images = torch.from_numpy(stream(1, "data").standard_normal((2, 3, 7, 8), dtype=np.float32))
    expected = nn.functional.conv2d(images, weight, patches.mix.bias, stride=2)
    assert torch.allclose(patches(images), expected, atol=1e-6)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(patches(last), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_parameters_and_gradients_are_views_of_the_flat_tensors(name: str) -> None:
    model = flat(name)
    numbers = np.arange(model.layout.size, dtype=np.float32)
    model.load(numbers)
    model.gradient.copy_(torch.from_numpy(numbers))
    parameters = dict(model.module.named_parameters())
    for slot in model.layout.slots:
        part = numbers[slot.offset : slot.offset + slot.size].reshape(slot.shape)
        gradient = parameters[slot.name].grad
        assert np.array_equal(parameters[slot.name].detach().numpy(), part)
        assert gradient is not None
        assert np.array_equal(gradient.numpy(), part)
    back = np.zeros_like(numbers)
    model.store(back)
    assert np.array_equal(back, numbers)


@pytest.mark.parametrize(("dataset", "name"), PARAMETERS)
def test_the_initial_vector_hangs_on_the_seed_alone(dataset: str, name: str) -> None:
    problem = PROBLEMS[dataset]
    torch.manual_seed(5)
    one = start(name, problem, seed=1)
    torch.manual_seed(6)
    assert np.array_equal(one, start(name, problem, seed=1))
    assert not np.array_equal(one, start(name, problem, seed=2))


def test_initial_values_are_uniform_up_to_the_root_of_the_fan_in() -> None:
    model = flat("mlp")
    vector = start("mlp")
    first, last = model.layout.slots[0], model.layout.slots[2]
    assert np.abs(vector[: first.size]).max() == pytest.approx(1 / 8, rel=1e-3)
    weights = vector[last.offset : last.offset + last.size]
    assert np.abs(weights).max() == pytest.approx(128**-0.5, rel=1e-2)
    assert weights.std() == pytest.approx((3 * 128) ** -0.5, rel=0.05)


def test_normalisation_starts_as_the_identity_and_unknown_layers_are_refused() -> None:
    with torch.device("meta"):
        norm, odd = nn.GroupNorm(2, 4), nn.PReLU()
    assert models.drawn(models.FlatModel(nn.Sequential(norm)), seed=1).tolist() == [1] * 4 + [0] * 4
    with pytest.raises(ConfigError, match="PReLU"):
        models.drawn(models.FlatModel(nn.Sequential(odd)), seed=1)


def test_a_model_with_buffers_is_refused() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="buffers"):
        models.FlatModel(module)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Known: mlp, cnn"):
        models.build(TrainingConfig(model="gpt"), DIGITS)


def test_minibatches_are_full_and_every_epoch_has_every_sample_once() -> None:
    source = batches(samples=40, batch_size=16)
    drawn = np.concatenate([source.take(steps).ravel() for steps in (1, 6, 3)])
    assert drawn.size == 160
    for epoch in np.split(drawn, 4):
        assert np.array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(drawn[:40], drawn[40:80])


def test_fewer_samples_than_a_batch_fill_it_by_several_epochs() -> None:
    batch = batches(samples=3, batch_size=16).take(1)[0]
    assert np.bincount(batch).tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])


def run(config: TrainingConfig, *, jobs: tuple[int, ...]) -> tuple[models.FlatModel, list[float]]:
    """Train on the first 200 digits from the initial vector of seed 1."""
    model = flat(config.model)
    model.load(start(config.model))
    source = batches(samples=200)
    losses = [
        sgd.train(
            model,
            config=config,
            material=digits(),
            batches=source.take(steps),
            tick=lambda: None,
        )
        for steps in jobs
    ]
    return model, losses


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(),
        TrainingConfig(momentum=0.9, learning_rate=0.02),
        TrainingConfig(weight_decay=0.01),
        TrainingConfig(model="cnn", momentum=0.5, weight_decay=0.001, learning_rate=0.05),
    ],
)
def test_sgd_does_what_torch_does(config: TrainingConfig) -> None:
    ours, [loss] = run(config, jobs=(20,))
    samples = digits()
    theirs = flat(config.model)
    theirs.load(start(config.model))
    optimizer = torch.optim.SGD(
        theirs.module.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    source, losses = batches(samples=200), []
    for batch in source.take(20):
        optimizer.zero_grad(set_to_none=False)
        logits = theirs.module(samples.inputs[batch])
        value = nn.functional.cross_entropy(logits, samples.labels[batch])
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert torch.allclose(ours.vector, theirs.vector, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_grouping_of_steps_into_jobs_changes_no_bit_without_momentum() -> None:
    one, _ = run(TrainingConfig(), jobs=(30,))
    many, _ = run(TrainingConfig(), jobs=(7, 3, 20))
    assert torch.equal(one.vector, many.vector)


def test_momentum_starts_anew_in_every_job() -> None:
    config = TrainingConfig(momentum=0.9, learning_rate=0.02)
    one, _ = run(config, jobs=(30,))
    many, _ = run(config, jobs=(15, 15))
    assert not torch.equal(one.vector, many.vector)


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(sgd.Diverged):
        run(TrainingConfig(learning_rate=1e9), jobs=(20,))


@pytest.mark.parametrize(("name", "steps", "learning_rate"), [("mlp", 300, 0.1), ("cnn", 300, 0.1)])
def test_one_node_with_all_the_data_gets_above_95_percent(
    name: str, steps: int, learning_rate: float
) -> None:
    model = flat(name)
    model.load(start(name))
    sgd.train(
        model,
        config=TrainingConfig(model=name, learning_rate=learning_rate),
        material=digits(),
        batches=batches(samples=1437).take(steps),
        tick=lambda: None,
    )
    accuracy, loss = sgd.evaluate(
        model, material=digits(), samples=np.arange(360), tick=lambda: None
    )
    assert accuracy > 0.95
    assert 0 < loss < 0.25
