"""The torchvision shim, each case in a fresh interpreter: operators are registered for good."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_imports_whatever_build_it_is() -> None:
    code = """
from node.training import vision
torchvision = vision.import_torchvision()
print(sum(p.numel() for p in torchvision.models.resnet18().parameters()))
print(vision.declare_missing())
"""
    assert run(code).split("\n") == ["11689512", "()"]


def test_only_operators_that_are_missing_are_declared() -> None:
    code = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from node.training import vision
print(vision.declare_missing(), vision.declare_missing())
"""
    assert run(code) == "('qnms',) ()"


def test_missing_torchvision_is_a_fault_of_the_environment() -> None:
    code = """
import importlib.util
importlib.util.find_spec = lambda name: None
from node.errors import EnvironmentFault
from node.training import vision
try:
    vision.import_torchvision()
except EnvironmentFault as fault:
    print(fault)
"""
    assert "pip install 'peerbed[train]'" in run(code)


def test_models_do_without_what_is_left_out_of_torch_and_torchvision_gets_it_back() -> None:
    code = """
import numpy as np
from node.training.__main__ import _lighten
_lighten("mlp")
import sys
assert sys.modules["torch._meta_registrations"].__spec__ is None
from node.config import TrainingConfig
from node.training import sgd
from node.training.catalog import EAGER_MODELS, PARAMETERS
from tests.unit.test_training_models import PROBLEMS, flat, start, toy
for dataset, name in PARAMETERS:
    if name in EAGER_MODELS:
        made = toy(PROBLEMS[dataset])
        model = flat(name, made.problem)
        model.load(start(name, made.problem))
        step = np.arange(4).reshape(1, 4)
        config = TrainingConfig(model=name)
        sgd.train(model, config=config, material=made, batches=step, tick=lambda: None)
        print(name)
from node.training.vision import import_torchvision
print(import_torchvision().datasets.CIFAR10.__name__)
"""
    assert run(code).split("\n") == [
        "mlp",
        "cnn",
        "gn-lenet",
        "gn-lenet-small",
        "matrix-factorisation",
        "char-gpt",
        "CIFAR10",
    ]
