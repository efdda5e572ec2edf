"""Models of a user's own: where they are looked for, what they start from, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.config import TrainingConfig
from node.errors import ConfigError
from node.training import models
from node.training.dataset import Problem, Task

DIGITS = Problem(task=Task.CLASS, shape=(8, 8), classes=10)
_numbers = itertools.count()

LINEAR = """
import math
from torch import nn

def make(problem):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(problem.shape), problem.classes))
"""


def own(folder: Path, text: str, *, function: str = "make") -> TrainingConfig:
    """A module of a name that no other test has taken: Python imports a name once."""
    name = f"own_model_{next(_numbers)}"
    (folder / f"{name}.py").write_text(text)
    return TrainingConfig(model=f"{name}:{function}", data_dir=str(folder))


def test_a_function_in_the_data_folder_makes_a_model(tmp_path: Path) -> None:
    config = own(tmp_path, LINEAR)
    model = models.FlatModel(models.build(config, DIGITS))
    assert model.layout.size == 650
    assert [slot.name for slot in model.layout.slots] == ["1.weight", "1.bias"]


def test_it_starts_from_its_own_values_and_the_seed_decides_them(tmp_path: Path) -> None:
    config = own(
        tmp_path,
        LINEAR + "\n\ndef zero(problem):\n    model = make(problem)\n"
        "    nn.init.zeros_(model[1].weight)\n    return model\n",
    )
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = models.initial(config, DIGITS, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert np.array_equal(one, models.initial(config, DIGITS, seed=1))
    assert not np.array_equal(one, models.initial(config, DIGITS, seed=2))
    assert 0 < np.abs(one).max() <= 1 / 8
    zero = TrainingConfig(model=config.model.replace("make", "zero"), data_dir=config.data_dir)
    assert not models.initial(zero, DIGITS, seed=1)[:640].any()


def test_a_module_on_the_path_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = own(tmp_path, LINEAR).model
    with pytest.raises(ConfigError, match="cannot be imported"):
        models.build(TrainingConfig(model=name), DIGITS)
    monkeypatch.syspath_prepend(str(tmp_path))
    models.build(TrainingConfig(model=name), DIGITS)


def test_a_parameter_that_two_layers_share_lies_in_the_vector_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

    made = Tied()
    model = models.FlatModel(made)
    assert model.layout.size == 9 + 3 + 3
    model.load(np.ones(15, dtype=np.float32))
    assert made.one.weight is made.two.weight
    assert made.two.weight.sum().item() == 9


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def make(problem):\n    return 1 / 0\n", "fails: ZeroDivisionError"),
        ("def make():\n    return None\n", "fails: TypeError"),
        ("def make(problem):\n    return 'model'\n", "is a str, not a torch.nn.Module"),
        ("make = 3\n", "has no function make"),
        ("import nothing_of_the_kind\n", "cannot be imported: ModuleNotFoundError"),
        ("def make(problem:\n", "cannot be imported: SyntaxError"),
        (
            "from torch import nn\ndef make(problem):\n    return nn.Flatten()\n",
            r"gives \(2, 64\) for a batch of two, not \(2, 10\)",
        ),
        (
            "from torch import nn\ndef make(problem):\n    return nn.Linear(3, 10)\n",
            r"cannot take a batch of shape \(2, 8, 8\): RuntimeError",
        ),
        (
            LINEAR + "\nlinear = make\ndef make(problem):\n"
            "    return nn.Sequential(nn.Dropout(0.1), linear(problem))\n",
            "draws random numbers",
        ),
    ],
)
def test_what_is_wrong_with_a_users_model_is_an_error_of_the_input(
    body: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        models.build(own(tmp_path, body), DIGITS)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("nn.BatchNorm1d(64)", "buffers"),
        ("nn.Linear(64, 64).requires_grad_(False)", "not trained"),
        ("nn.Sequential(nn.Linear(64, 64))._apply(lambda t: t)", ""),
    ],
)
def test_what_nodes_could_not_exchange_is_refused(layer: str, says: str, tmp_path: Path) -> None:
    body = (
        "from torch import nn\ndef make(problem):\n"
        f"    return nn.Sequential(nn.Flatten(), {layer}, nn.Linear(64, 10))\n"
    )
    made = models.build(own(tmp_path, body), DIGITS)
    if not says:
        models.FlatModel(made)
        return
    with pytest.raises(ConfigError, match=says):
        models.FlatModel(made)


@pytest.mark.parametrize(
    ("task", "shape", "outputs"),
    [(Task.RATING, (2,), "x[:, 0] * 1.0 * w"), (Task.NEXT_TOKEN, (6,), "w.expand(*x.shape, 5)")],
)
def test_ratings_and_texts_may_have_models_of_a_users_own(
    task: Task, shape: tuple[int, ...], outputs: str, tmp_path: Path
) -> None:
    body = (
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.w = nn.Parameter(torch.ones(1))\n"
        f"    def forward(self, x):\n        w = self.w\n        return {outputs}\n"
        "def make(problem):\n    return Net()\n"
    )
    problem = Problem(task=task, shape=shape, classes=5, sizes=(5, 5))
    assert models.initial(own(tmp_path, body), problem, seed=1).tolist() == [1.0]


def test_models_of_ours_are_for_their_data_alone() -> None:
    ratings = Problem(task=Task.RATING, shape=(2,), classes=1, sizes=(3, 4))
    with pytest.raises(ConfigError, match="predicts a class; the data set asks for a rating"):
        models.build(TrainingConfig(model="mlp"), ratings)
    with pytest.raises(ConfigError, match="in colour"):
        models.build(TrainingConfig(model="resnet18"), DIGITS)
