"""Contexts learned in front of class names, for two frozen encoders: `minidiff.bench guidance prompts` (2 CPU-minutes).

Digits are made light or heavy, upright or lying: forty classes, each with a name of three words, such as "seven, heavy,
lying". A `DualEncoder` is trained on pairs of a picture and "a WORD: its name", where the picture is clean, noisy,
faded or negative, and WORD says so half of the time and is "picture" otherwise. Then both encoders are frozen. A
context in the place of "a picture" is learned from a few pictures of the base classes, which are noisy, negative or
both at once, and judged on held-out digits of the base classes, told from each other, and of the new classes, told from
each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff import data
from minidiff.bench import results, resume
from minidiff.guidance import PromptEmbedding
from minidiff.nets import Classifier, DualEncoder, contrastive_loss
from minidiff.train import fit, seeded

FOLDER = Path("build/guidance")  # what an interrupted run goes on from
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MEDIA = ("clean", "noisy", "faded", "negative")
WORDS = (*DIGITS, "light", "heavy", "upright", "lying", "a", "picture", *MEDIA)
NAMES = torch.tensor([[digit, 10 + heavy, 12 + lying] for digit in range(10) for heavy in (0, 1) for lying in (0, 1)])
BY_HAND = torch.tensor([WORDS.index("a"), WORDS.index("picture")])
SHOWN_LATER = (1, 3, 4)  # media of the pictures that contexts are learned from and judged on; 4 is noisy and negative
WIDTH = 64
SEEDS = (0, 1, 2)
FIRST = 1000  # training digits for the two encoders; the others are for the contexts
STEPS, PAIRS = 400, 128  # of the encoders' training
SHOTS = 8  # pictures of each base class
CONTEXT_STEPS, BATCH = 200, 32


def picture(digit: Tensor, heavy: Tensor, lying: Tensor, medium: Tensor, generator: torch.Generator) -> Tensor:
    """Digits (B, 1, 8, 8) in [−1, 1] in the style that each row asks for, all (B,): 0 or 1, 0 or 1, 0 … 4."""
    heavy, lying, medium = (rows[:, None, None, None] for rows in (heavy, lying, medium))
    ink = (digit + 1) / 2
    thick = F.max_pool2d(F.pad(ink, (1, 0, 1, 0)), 2, 1)
    ink = torch.where(heavy == 1, (ink + thick) / 2, 0.75 * ink)
    x = 2 * torch.where(lying == 1, ink.rot90(1, (2, 3)), ink) - 1
    x = torch.where(medium == 2, 0.4 * x - 0.6, torch.where(medium >= 3, -x, x))
    noise = torch.randn(x.shape, generator=generator)
    return torch.where((medium == 1) | (medium == 4), x + 0.5 * noise, x)


def pairs(images: Tensor, digits: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of pictures and their captions (PAIRS, 5), indices of WORDS."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        rows = torch.randint(len(images), (PAIRS,), generator=generator)
        heavy, lying, told = torch.randint(2, (3, PAIRS), generator=generator)
        medium = torch.randint(len(MEDIA), (PAIRS,), generator=generator)
        word = torch.where(told == 1, WORDS.index("clean") + medium, BY_HAND[1])
        caption = torch.cat(
            [torch.stack([BY_HAND[0].expand(PAIRS), word], 1), NAMES[place(digits[rows], heavy, lying)]], 1
        )
        yield picture(images[rows], heavy, lying, medium, generator), caption


def place(digit: Tensor, heavy: Tensor, lying: Tensor) -> Tensor:
    """The class, a row of NAMES."""
    return 4 * digit + 2 * heavy + lying


def encoders(images: Tensor, digits: Tensor, seed: int) -> DualEncoder:
    """Both encoders, trained on pairs and frozen."""
    with seeded(seed):
        E = DualEncoder(Classifier(classes=WIDTH), len(WORDS), WIDTH)

    def loss(x: Tensor, caption: Tensor) -> Tensor:
        return contrastive_loss(E.pictures(x), E.names(caption)[0], E.log_scale.exp())

    for _ in fit(loss, E.parameters(), pairs(images, digits, seed), steps=STEPS, lr=2e-3, warmup=STEPS // 20):
        pass
    return E.requires_grad_(False)


def of_classes(images: Tensor, digits: Tensor, classes: Tensor, shots: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of each class, `shots` or as many as there are digits, and the place of each one's class in the list."""
    generator, made, where = torch.Generator().manual_seed(seed), [], []
    for k, (digit, heavy, lying) in enumerate((NAMES[classes] - torch.tensor([0, 10, 12])).tolist()):
        chosen = images[digits == digit]
        chosen = chosen[torch.randperm(len(chosen), generator=generator)[:shots]]
        medium = torch.tensor(SHOWN_LATER)[torch.randint(len(SHOWN_LATER), (len(chosen),), generator=generator)]
        same = torch.ones_like(medium)
        made.append(picture(chosen, heavy * same, lying * same, medium, generator))
        where.append(k * same)
    return torch.cat(made), torch.cat(where)


def learned(E: DualEncoder, x: Tensor, y: Tensor, names: Tensor, shift: bool, seed: int) -> PromptEmbedding:
    """A context for these classes, from the words by hand; with `shift`, shifted by the picture's own code."""
    with seeded(seed):
        prompt = PromptEmbedding(E.context(BY_HAND)[0], WIDTH if shift else None)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        context = prompt(E.pictures(x) if shift else None)
        return F.cross_entropy(E(x, names, context), y, reduction="none")

    stream = data.batches(x, y, batch_size=BATCH, seed=seed)
    for _ in fit(loss, prompt.parameters(), stream, steps=CONTEXT_STEPS, lr=0.03, warmup=CONTEXT_STEPS // 20):
        pass
    return prompt


@torch.no_grad()
def accuracy(E: DualEncoder, x: Tensor, y: Tensor, names: Tensor, context: Callable[[Tensor], Tensor]) -> float:
    """The share of pictures whose class is the most probable of `names`; context: x → (1 or B, M, WIDTH)."""
    found = torch.cat([E(part, names, context(part)).argmax(1) for part in x.split(200)])
    return float((found == y).double().mean())


def splits(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Base and new classes: halves at random, so that the base has all words, and by digit, 0 to 5 and 6 to 9."""
    order = torch.randperm(len(NAMES), generator=torch.Generator().manual_seed(100 + seed))
    by_digit = torch.arange(len(NAMES))
    return {"at random": (order[:20], order[20:]), "by digit": (by_digit[:24], by_digit[24:])}


def compared(seed: int) -> list[dict[str, Any]]:
    """Accuracies on base and new classes of the context by hand, one learned, and one learned with a shift."""
    images, digits = data.digits("train")
    held, held_digits = data.digits("test")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    first, later = order[:FIRST], order[FIRST:]
    E, rows = encoders(images[first], digits[first], seed), []
    for split, (base, new) in splits(seed).items():
        shots = of_classes(images[later], digits[later], base, SHOTS, 200 + seed)
        shared, shifted = (learned(E, *shots, NAMES[base], shift, seed) for shift in (False, True))
        contexts = {
            "by hand": lambda x: E.context(BY_HAND),
            "shared": lambda x, prompt=shared: prompt(),
            "shifted": lambda x, prompt=shifted: prompt(E.pictures(x)),
        }
        for name, context in contexts.items():
            shares = {"shots": accuracy(E, *shots, NAMES[base], context)}
            for of, classes in (("base", base), ("new", new)):
                judged = of_classes(held, held_digits, classes, None, 300 + seed)
                shares[of] = accuracy(E, *judged, NAMES[classes], context)
            rows.append({"split": split, "seed": seed, "context": name, **shares})
    return rows


def prompts() -> None:
    """guidance-prompts: two splits of the classes, three contexts, three trainings of everything."""
    rows = [row for seed in SEEDS for row in resume.once(FOLDER / f"prompts-{seed}.json", lambda s=seed: compared(s))]
    stored = {"training_steps": STEPS, "context_steps": CONTEXT_STEPS, "shots": SHOTS, "rows": rows}
    results.save("guidance-prompts", stored, "python -m minidiff.bench guidance prompts")
