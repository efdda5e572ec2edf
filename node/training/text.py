"""The characters of a text file, to be foretold one by one (numpy only)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from node.errors import ConfigError, EnvironmentFault
from node.training.dataset import Dataset, Problem, Task, read_only

_TEST_SHARE: Final = 0.1
_GROUPS: Final = 10
_REMEDY: Final = (
    "Name a text file (UTF-8), or a folder with one file *.txt in it, as `training.data_dir`;"
    " for example https://github.com/karpathy/char-rnn has tinyshakespeare."
)


def load(folder: Path | None, *, context: int) -> Dataset:
    """The text cut into pieces of `context` characters without overlap; what is wanted is the same
    one character on. The last tenth of the text is for tests. The alphabet is the text's own.

    Raises:
        ConfigError: the text is too short for the context.
        EnvironmentFault: no such file, several, or not UTF-8.
    """
    path = _find(folder)
    tokens, alphabet = _tokens(path)
    cut = tokens.size - int(tokens.size * _TEST_SHARE)
    parts = [_pieces(part, context) for part in np.split(tokens, [cut])]
    if any(inputs.shape[0] == 0 for inputs, _ in parts):
        raise ConfigError(
            f"{path} has {tokens.size} characters, too few for a context of {context}",
            where="training.context",
        )
    (inputs, labels), (test_inputs, test_labels) = parts
    groups = np.arange(len(inputs), dtype=np.int64) * _GROUPS // len(inputs)
    return Dataset(
        problem=Problem(
            task=Task.NEXT_TOKEN, shape=(context,), classes=alphabet, sizes=(alphabet,)
        ),
        inputs=inputs,
        labels=labels,
        test_inputs=test_inputs,
        test_labels=test_labels,
        groups=read_only(groups),
        group_count=_GROUPS,
    )


_Tokens = np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.int32]]


def _tokens(path: Path) -> tuple[_Tokens, int]:
    """The text as numbers of characters in the order of their code points, and how many there
    are; a byte each where that is enough."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFault(
            f"{path} cannot be read as a text: {error}", remedy=_REMEDY
        ) from error
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    alphabet, tokens = np.unique(points, return_inverse=True)
    return tokens.astype(np.uint8 if alphabet.size <= 256 else np.int32), int(alphabet.size)


def _pieces(tokens: _Tokens, context: int) -> tuple[_Tokens, _Tokens]:
    """Inputs and what is wanted, (pieces, context) each; views, nothing is copied."""
    number = max(0, tokens.size - 1) // context
    read_only(tokens)
    inputs = tokens[: number * context].reshape(number, context)
    return inputs, tokens[1 : number * context + 1].reshape(number, context)


def _find(folder: Path | None) -> Path:
    if folder is None:
        raise EnvironmentFault("the data set text needs `training.data_dir`", remedy=_REMEDY)
    if folder.is_file():
        return folder
    found = sorted(folder.glob("*.txt"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:3])
        several = f"several text files ({names})" if found else "no text file"
        raise EnvironmentFault(f"{folder} has {several}", remedy=_REMEDY)
    return found[0]
