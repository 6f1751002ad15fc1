"""The benchmark behind the chapter on memorisation, at a size that takes seconds."""

import pytest
import torch
from torch import nn

from minidiff import zoo
from minidiff.bench import memory, pictures, results
from minidiff.process import RectifiedFlow


class Judge(nn.Module):
    """Features that are ten pixels."""

    def features(self, x):
        return x.flatten(1)[:, 20:30]


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, tiny networks and few steps."""
    settings = {"SIZES": (10, 20), "SEEDS": (0, 1), "WIDTH": 8, "DEPTH": 1, "BATCH": 5, "MARKS": (2, 5, 6)}
    settings |= {"SAMPLES": 6, "CALLS": 2, "DRAWS": 24, "SHOWN": 3}
    for name, value in settings.items():
        monkeypatch.setattr(memory, name, value)
    monkeypatch.setattr(zoo, "load", lambda name: Judge())
    return checkout


def test_result_is_stored_and_resumed(small, monkeypatch):
    memory.main([])
    kept = results.load("memory-digits")["data"]
    assert [row["step"] for row in kept["rows"]] == [2, 5, 6]
    for row in kept["rows"]:
        assert all(len(row[name]) == 4 for name in ("training", "held_out", "copy_rate", "copy_rate_of_2", "frechet"))
        assert [pictures.unpacked(text, (-1, 1, 8, 8)).shape for text in row["pictures"]] == [(3, 1, 8, 8)] * 2
    assert [(run["n"], run["seed"]) for run in kept["runs"]] == [(10, 0), (10, 1), (20, 0), (20, 1)]
    # least_training_loss bounds the training loss of every network from below, draw by draw
    for row in kept["rows"]:
        assert all(loss > run["least_training_loss"] for loss, run in zip(row["training"], kept["runs"], strict=True))
    monkeypatch.setattr(memory, "judged", None)  # nothing is measured again
    memory.main([])
    assert results.load("memory-digits")["data"] == kept


def test_an_interrupted_training_ends_as_if_it_had_not_been(small, monkeypatch):
    memory.main([])
    whole = results.load("memory-digits")["data"]["rows"]
    for name in ("rows.json", "state.pt"):
        (memory.FOLDER / name).unlink()
    noised = memory.noised

    def interrupted(*arguments, **settings):
        for step, batch in enumerate(noised(*arguments, **settings), start=1):
            if step == 4:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(memory, "noised", interrupted)
    with pytest.raises(KeyboardInterrupt):
        memory.main([])
    assert len(results.load("memory-digits")["data"]["rows"]) == 1  # the mark that was reached
    monkeypatch.setattr(memory, "noised", noised)
    memory.main([])
    assert results.load("memory-digits")["data"]["rows"] == whole


def test_subsets_are_nested_and_seeded():
    a, b, c = memory.subset(20, 0), memory.subset(50, 0), memory.subset(20, 1)
    assert torch.equal(a, b[:20]) and not torch.equal(a, c)


def test_all_networks_see_the_same_times():
    t = memory.repeated(3)(12, torch.Generator().manual_seed(0))
    assert torch.equal(t[:4], t[4:8]) and torch.equal(t[:4], t[8:]) and len(set(t[:4].tolist())) == 4


def test_late_times_are_asked_earlier():
    asked = []

    class Spy:
        process, sigma_data, coupled = RectifiedFlow(), 1.0, False

        def __call__(self, x, t):
            asked.append(float(t))
            return x

    for t in (0.3, 0.98, 1.0):
        memory.Seen(Spy())(torch.ones(1, 2), torch.tensor(t))
    assert asked == pytest.approx([0.3, 0.98, 0.98])


def test_arguments_are_refused(small):
    with pytest.raises(ValueError, match="no arguments, got"):
        memory.main(["digits"])
