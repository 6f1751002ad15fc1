"""Contexts for class names, at a size that takes seconds: pictures obey their names, and nothing leaks."""

import pytest
import torch

from minidiff import data
from minidiff.bench import contexts, guidance, results


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, two hundred digits and hardly any training."""
    sizes = {"SEEDS": (0, 1), "STEPS": 2, "PAIRS": 4, "FIRST": 60, "SHOTS": 1, "CONTEXT_STEPS": 2, "BATCH": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(contexts, name, value)
    images, labels = data.digits("all")
    parts = {"train": slice(0, 170), "test": slice(170, 200)}
    monkeypatch.setattr(data, "digits", lambda split: (images[parts[split]], labels[parts[split]]))
    return checkout


def test_pictures_are_what_their_names_say():
    images, labels = data.digits("test")
    x, label = images[:1], labels[:1]
    zero, one = torch.tensor([0]), torch.tensor([1])

    def made(*style):
        return contexts.picture(x, *style, torch.Generator().manual_seed(0))

    plain = made(zero, zero, zero)
    torch.testing.assert_close(plain, 0.75 * (x + 1) - 1)
    assert (made(one, zero, zero) + 1).sum() > 1.2 * (plain + 1).sum()
    torch.testing.assert_close(made(zero, one, zero), plain.rot90(1, (2, 3)))
    torch.testing.assert_close(made(zero, zero, 3 * one), -plain)
    noise = made(zero, zero, one) - plain
    torch.testing.assert_close(made(zero, zero, 4 * one), noise - plain)
    assert 0.3 < noise.std() < 0.7  # of 64 normals times 1/2, standard error 0.044
    assert made(zero, zero, 2 * one).max() < 0
    name = [contexts.WORDS[word] for word in contexts.NAMES[contexts.place(label, one, zero)][0].tolist()]
    assert name == [contexts.DIGITS[int(label)], "heavy", "upright"]


def test_splits_part_the_names():
    for seed in range(3):
        splits = contexts.splits(seed)
        for base, new in splits.values():
            assert sorted([*base.tolist(), *new.tolist()]) == list(range(40))
        assert set(contexts.NAMES[splits["by digit"][1]][:, 0].tolist()) == {6, 7, 8, 9}
        assert set(contexts.NAMES[splits["at random"][0]].flatten().tolist()) == set(range(14))


def test_captions_and_classes(small):
    images, labels = data.digits("train")
    x, caption = next(contexts.pairs(images, labels, 0))
    assert x.shape == (4, 1, 8, 8)
    assert caption.shape == (4, 5)
    assert all(row in contexts.NAMES.tolist() for row in caption[:, 2:].tolist())
    x, y = contexts.of_classes(images, labels, torch.tensor([3, 30]), 2, 0)
    assert x.shape == (4, 1, 8, 8)
    assert y.tolist() == [0, 0, 1, 1]


def test_prompts_are_stored_and_resumed(small, monkeypatch):
    guidance.main(["prompts"])
    kept = results.load("guidance-prompts")["data"]
    assert [(row["seed"], row["split"], row["context"]) for row in kept["rows"]] == [
        (seed, split, context)
        for seed in (0, 1)
        for split in ("at random", "by digit")
        for context in ("by hand", "shared", "shifted")
    ]
    assert all(0 <= row[of] <= 1 for row in kept["rows"] for of in ("shots", "base", "new"))
    monkeypatch.setattr(contexts, "compared", None)  # nothing is trained again
    guidance.main(["prompts"])
    assert results.load("guidance-prompts")["data"] == kept
