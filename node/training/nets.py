"""Our models' layers. Imports torch.

Where a block pools, it does so before the ReLU: the result and its gradient are the same bits, and
the ReLU has a quarter of the work.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from node.errors import ConfigError
from node.training.dataset import Problem, Task
from node.training.vision import import_torchvision

_FACTORS = 20
_GROUPS = 2


def mlp(problem: Problem) -> nn.Module:
    """One hidden layer of 128. For digits 64*128 + 128 + 128*10 + 10 = 9,610 parameters."""
    _needs(problem, Task.CLASS, "mlp")
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(problem.shape), 128),
        nn.ReLU(),
        nn.Linear(128, problem.classes),
    )


def cnn(problem: Problem) -> nn.Module:
    """Two 3x3 convolutions with 16 and 32 channels, pooled after the first, and a linear layer. For
    digits 160 + 4,640 + 512*10 + 10 = 9,930 parameters, about as many as the MLP."""
    channels, height, width = _image(problem, "cnn")
    planes = [nn.Unflatten(1, (1, height))] if len(problem.shape) == 2 else []
    return nn.Sequential(
        *planes,
        nn.Conv2d(channels, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), problem.classes),
    )


def gn_lenet(problem: Problem) -> nn.Module:
    """LeNet with group normalisation (Hsieh et al. 2020), as decentralizepy and DivShare's artifact
    have it: three 5x5 convolutions with 32, 32 and 64 channels and a linear layer. For CIFAR-10
    2,432 + 25,632 + 51,264 + 2*(32 + 32 + 64) + 1,024*10 + 10 = 89,834 parameters."""
    channels, height, width = _image(problem, "gn-lenet")
    planes = [nn.Unflatten(1, (1, height))] if len(problem.shape) == 2 else []
    return nn.Sequential(
        *planes,
        *_block(channels, 32, kernel=5),
        *_block(32, 32, kernel=5),
        *_block(32, 64, kernel=5),
        nn.Flatten(),
        nn.Linear(64 * (height // 8) * (width // 8), problem.classes),
    )


def gn_lenet_small(problem: Problem) -> nn.Module:
    """Stands for `gn-lenet` in virtual time, where a message counts for as many bytes as is said: a
    step of 8 images takes a thirteenth of the time on a processor core. Two convolutions whose
    stride is their size, 4 and 2 pixels, with 32 channels each, and a linear layer. For CIFAR-10
    1,568 + 4,128 + 2*(32 + 32) + 16*32*10 + 10 = 10,954 parameters."""
    channels, height, width = _image(problem, "gn-lenet-small")
    planes = [nn.Unflatten(1, (1, height))] if len(problem.shape) == 2 else []
    return nn.Sequential(
        *planes,
        *_patches(channels, 32, size=4),
        *_patches(32, 32, size=2),
        nn.Flatten(),
        nn.Linear(32 * (height // 8) * (width // 8), problem.classes),
    )


def _patches(channels: int, out: int, *, size: int) -> tuple[nn.Module, ...]:
    """Convolution by patches, group normalisation, ReLU."""
    return Patches(channels, out, size=size), nn.GroupNorm(_GROUPS, out), nn.ReLU()


class Patches(nn.Module):
    """A convolution whose stride is its size, as one product of matrices: for small images that is
    several times as fast as `Conv2d`."""

    def __init__(self, channels: int, out: int, *, size: int) -> None:
        super().__init__()
        self.size = size
        self.mix = nn.Linear(channels * size * size, out)

    def forward(self, x: Tensor) -> Tensor:
        """(images, out, height // size, width // size) of (images, channels, height, width); what
        is left at the right and lower edge is cut off."""
        images, channels, size = x.shape[0], x.shape[1], self.size
        rows, columns = x.shape[2] // size, x.shape[3] // size
        pixels = x.permute(0, 2, 3, 1)[:, : rows * size, : columns * size]
        split = pixels.reshape(images, rows, size, columns, size, channels).transpose(2, 3)
        mixed: Tensor = self.mix(split.reshape(images, rows, columns, size * size * channels))
        return mixed.permute(0, 3, 1, 2)


def _block(channels: int, out: int, *, kernel: int) -> tuple[nn.Module, ...]:
    """Convolution, group normalisation, 2x2 maximum, ReLU."""
    return (
        nn.Conv2d(channels, out, kernel_size=kernel, padding=kernel // 2),
        nn.GroupNorm(_GROUPS, out),
        nn.MaxPool2d(2),
        nn.ReLU(),
    )


def resnet18(problem: Problem) -> nn.Module:
    """torchvision's ResNet-18 (He et al. 2016) with GroupNorm(2) for BatchNorm, whose statistics
    are no parameters. 11,181,642 parameters for ten classes of colour images.

    Raises:
        EnvironmentFault: torchvision is not installed.
    """
    if _image(problem, "resnet18")[0] != 3:
        raise ConfigError("the model resnet18 takes images in colour", where="training.model")
    made: nn.Module = import_torchvision().models.resnet18(
        num_classes=problem.classes, norm_layer=lambda channels: nn.GroupNorm(_GROUPS, channels)
    )
    return made


class Factors(nn.Embedding):
    """Factors of users or items."""

    CENTRE = math.sqrt(3.5 / _FACTORS)
    """Around which they begin: the product is then 3.5 stars, about the mean of all ratings.

    Around 0, as in DivShare's artifact, both gradients are next to nothing, and what a node learns
    of its users is averaged with the factors of all those who know nothing of them: nothing is
    learnt for hundreds of rounds.
    """


class MatrixFactorisation(nn.Module):
    """A rating is the product of a user's and an item's 20 factors (Koren et al. 2009), without
    biases: 20 * (610 + 9,724) = 206,680 parameters for ml-latest-small."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        _needs(problem, Task.RATING, "matrix-factorisation")
        users, items = problem.sizes
        self.users = Factors(users, _FACTORS)
        self.items = Factors(items, _FACTORS)

    def forward(self, pairs: Tensor) -> Tensor:
        """(ratings,), of (ratings, 2) users and items."""
        ratings: Tensor = (self.users(pairs[:, 0]) * self.items(pairs[:, 1])).sum(dim=1)
        return ratings


class CharGpt(nn.Module):
    """A small GPT (Radford et al. 2019): two blocks with four heads on 64 features, learnt
    positions. 100,096 parameters, 64 + 64 + 1 more for each character of the alphabet, and 64 for
    each position: 112,577 for an alphabet of 65 and a context of 64."""

    _FEATURES = 64
    _BLOCKS = 2

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        _needs(problem, Task.NEXT_TOKEN, "char-gpt")
        (context,) = problem.shape
        self.tokens = nn.Embedding(problem.classes, self._FEATURES)
        self.positions = nn.Embedding(context, self._FEATURES)
        self.blocks = nn.Sequential(*(_Block(self._FEATURES) for _ in range(self._BLOCKS)))
        self.norm = nn.LayerNorm(self._FEATURES)
        self.head = nn.Linear(self._FEATURES, problem.classes)

    def forward(self, text: Tensor) -> Tensor:
        """Logits (texts, context, alphabet) of what follows each position of (texts, context)."""
        places = torch.arange(text.shape[1], device=text.device)
        logits: Tensor = self.head(
            self.norm(self.blocks(self.tokens(text) + self.positions(places)))
        )
        return logits


class _Block(nn.Module):
    """Attention to what came before, and a layer of four times the width; both residual."""

    _HEADS = 4

    def __init__(self, features: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(features)
        self.attend = nn.Linear(features, 3 * features)
        self.join = nn.Linear(features, features)
        self.between = nn.LayerNorm(features)
        self.widen = nn.Linear(features, 4 * features)
        self.narrow = nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        texts, context, features = x.shape
        wide = self.attend(self.before(x)).view(texts, context, 3, self._HEADS, -1)
        query, key, value = wide.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(texts, context, features))
        y: Tensor = x + self.narrow(functional.gelu(self.widen(self.between(x))))
        return y


def _needs(problem: Problem, task: Task, model: str) -> None:
    if problem.task is not task:
        raise ConfigError(
            f"the model {model} predicts a {task}; the data set asks for a {problem.task}",
            where="training.model",
        )


def _image(problem: Problem, model: str) -> tuple[int, int, int]:
    """Channels, height and width."""
    _needs(problem, Task.CLASS, model)
    return (1, *problem.shape) if len(problem.shape) == 2 else problem.shape  # type: ignore[return-value]
