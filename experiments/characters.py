"""The text that comes with Python, as characters: what a language model learns and is judged on."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCKS = 20  # contiguous parts of the held-out text, whose spread gives the standard error


@dataclass(frozen=True)
class Corpus:
    """A text in three contiguous parts, as the numbers of its characters.

    Arguments:
        alphabet: the distinct characters of the whole text, in order.
        train: the first part, int64.
        validation: the part that follows it, on which weights are chosen.
        held_out: the rest, which is looked at once.
        about: what says which text this is.
    """

    alphabet: str
    train: Tensor
    validation: Tensor
    held_out: Tensor
    about: dict[str, Any]

    def decode(self, numbers: Tensor) -> str:
        """Return the text of some numbers."""
        return "".join(self.alphabet[i] for i in numbers.tolist())


def corpus(characters: int | None = None) -> Corpus:
    """Read the help texts of this Python: the first 85% to train on, 5% to validate, 10% held out.

    The topics in the order of their names. Many repeat each other's paragraphs: each is kept where
    it stands first, or the held-out text would hold passages of the others.

    Arguments:
        characters: how many are taken; all by default.
    """
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(paragraphs))[:characters]
    alphabet = "".join(sorted(set(text)))
    number = {character: i for i, character in enumerate(alphabet)}
    all_of_it = torch.tensor([number[character] for character in text])
    a, b = int(0.85 * len(text)), int(0.9 * len(text))
    about = {
        "text": "pydoc_data.topics, topics sorted by name, repeated paragraphs once",
        "python": platform.python_version(),
        "characters": len(text),
        "distinct": len(alphabet),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "train": [0, a],
        "validation": [a, b],
        "held out": [b, len(text)],
    }
    return Corpus(alphabet, all_of_it[:a], all_of_it[a:b], all_of_it[b:], about)


def batch(text: Tensor, size: int, length: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Return random windows and what follows each character of them, (size, length) both.

    A function of seed and step, so that a resumed training sees what the unbroken one would.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    first = torch.randint(len(text) - length, (size, 1), generator=generator)
    windows = text[first + torch.arange(length + 1)]
    return windows[:, :-1], windows[:, 1:]


@torch.no_grad()
def bits(
    logits: Callable[[Tensor], Tensor], text: Tensor, length: int, device: str, size: int = 32
) -> Tensor:
    """Return the bits that a model takes for each character of a text but the first, (n - 1,).

    Windows overlap by half: but in the first one, each character is predicted from at least
    length / 2 before it.
    """
    total = len(text) - 1
    starts = sorted({min(s, total - length) for s in range(0, total, max(length // 2, 1))})
    spent, filled = torch.empty(total, dtype=torch.float64), 0
    for at in range(0, len(starts), size):
        first = torch.tensor(starts[at : at + size])[:, None]
        windows = text[first + torch.arange(length + 1)].to(device)
        wanted = windows[:, 1:]
        found = F.cross_entropy(
            logits(windows[:, :-1]).float().flatten(0, 1), wanted.flatten(), reduction="none"
        ).view_as(wanted)
        for begin, row in zip(first[:, 0].tolist(), found.double().cpu(), strict=True):
            spent[filled : begin + length] = row[filled - begin :] / math.log(2)
            filled = begin + length
    return spent


def summary(spent: Tensor) -> dict[str, float]:
    """Return bits per character and its standard error, from the spread of contiguous blocks."""
    means = block_means(spent)
    return {
        "bits per character": round(float(spent.mean()), 4),
        "standard error": round(float(means.std()) / math.sqrt(len(means)), 4),
    }


def block_means(spent: Tensor) -> Tensor:
    """Return the mean of each of the contiguous blocks."""
    return torch.stack([block.mean() for block in spent.tensor_split(BLOCKS)])
