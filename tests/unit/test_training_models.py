"""Models as flat vectors, initial values, minibatches, and SGD against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from node.config import TrainingConfig
from node.core.rng import stream
from node.errors import ConfigError
from node.training import data, models, sgd
from node.training.catalog import MODELS, PARAMETERS


def flat(name: str) -> models.FlatModel:
    return models.FlatModel(models.build(name, shape=(8, 8), classes=10))


def batches(*, samples: int = 40, batch_size: int = 16) -> sgd.Minibatches:
    return sgd.Minibatches(np.arange(samples), batch_size=batch_size, rng=stream(1, "data", "n0"))


@pytest.mark.parametrize("name", MODELS)
def test_parameter_counts_are_those_of_the_catalog(name: str) -> None:
    assert flat(name).layout.size == PARAMETERS["digits", name]


@pytest.mark.parametrize("name", MODELS)
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


@pytest.mark.parametrize("name", MODELS)
def test_the_initial_vector_hangs_on_the_seed_alone(name: str) -> None:
    torch.manual_seed(5)
    one = models.initial(flat(name), seed=1)
    torch.manual_seed(6)
    assert np.array_equal(one, models.initial(flat(name), seed=1))
    assert not np.array_equal(one, models.initial(flat(name), seed=2))


def test_initial_values_are_uniform_up_to_the_root_of_the_fan_in() -> None:
    model = flat("mlp")
    vector = models.initial(model, seed=1)
    first, last = model.layout.slots[0], model.layout.slots[2]
    assert np.abs(vector[: first.size]).max() == pytest.approx(1 / 8, rel=1e-3)
    weights = vector[last.offset : last.offset + last.size]
    assert np.abs(weights).max() == pytest.approx(128**-0.5, rel=1e-2)
    assert weights.std() == pytest.approx((3 * 128) ** -0.5, rel=0.05)


def test_normalisation_starts_as_the_identity_and_unknown_layers_are_refused() -> None:
    with torch.device("meta"):
        norm, odd = nn.GroupNorm(2, 4), nn.PReLU()
    assert (
        models.initial(models.FlatModel(nn.Sequential(norm)), seed=1).tolist() == [1] * 4 + [0] * 4
    )
    with pytest.raises(ConfigError, match="PReLU"):
        models.initial(models.FlatModel(nn.Sequential(odd)), seed=1)


def test_a_model_with_buffers_is_refused() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="buffers"):
        models.FlatModel(module)


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="Known: mlp, cnn"):
        models.build("gpt", shape=(8, 8), classes=10)


def test_minibatches_are_full_and_every_epoch_has_every_sample_once() -> None:
    source = batches(samples=40, batch_size=16)
    drawn = torch.cat([source.take() for _ in range(10)]).numpy()
    assert drawn.size == 160
    for epoch in np.split(drawn, 4):
        assert np.array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(drawn[:40], drawn[40:80])


def test_fewer_samples_than_a_batch_fill_it_by_several_epochs() -> None:
    batch = batches(samples=3, batch_size=16).take().numpy()
    assert np.bincount(batch).tolist() in ([6, 5, 5], [5, 6, 5], [5, 5, 6])


def run(config: TrainingConfig, *, jobs: tuple[int, ...]) -> tuple[models.FlatModel, list[float]]:
    """Train on the first 200 digits from the initial vector of seed 1."""
    digits = data.load("digits")
    model = flat(config.model)
    model.load(models.initial(model, seed=1))
    source = batches(samples=200)
    losses = [
        sgd.train(
            model,
            config=config,
            inputs=torch.from_numpy(digits.inputs.copy()),
            labels=torch.from_numpy(digits.labels.copy()),
            batches=source,
            steps=steps,
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
    digits = data.load("digits")
    theirs = flat(config.model)
    theirs.load(models.initial(theirs, seed=1))
    optimizer = torch.optim.SGD(
        theirs.module.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    source, losses = batches(samples=200), []
    for _ in range(20):
        batch = source.take().numpy()
        optimizer.zero_grad(set_to_none=False)
        logits = theirs.module(torch.from_numpy(digits.inputs[batch]))
        value = nn.functional.cross_entropy(logits, torch.from_numpy(digits.labels[batch]))
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
    digits = data.load("digits")
    model = flat(name)
    model.load(models.initial(model, seed=1))
    sgd.train(
        model,
        config=TrainingConfig(model=name, learning_rate=learning_rate),
        inputs=torch.from_numpy(digits.inputs.copy()),
        labels=torch.from_numpy(digits.labels.copy()),
        batches=batches(samples=1437),
        steps=steps,
        tick=lambda: None,
    )
    accuracy, loss = sgd.evaluate(
        model,
        inputs=torch.from_numpy(digits.test_inputs.copy()),
        labels=torch.from_numpy(digits.test_labels.copy()),
        tick=lambda: None,
    )
    assert accuracy > 0.95
    assert 0 < loss < 0.25
