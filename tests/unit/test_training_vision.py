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
