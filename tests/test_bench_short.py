"""The benchmark of a short training, at a size that takes seconds: pushes, figures, the regression, the result."""

import itertools

import pytest
import torch

from minidiff import data, guidance
from minidiff.bench import guidance as stages
from minidiff.bench import pictures, results, short
from minidiff.objectives import denoising_loss, velocity
from minidiff.process import RectifiedFlow
from minidiff.times import logit_normal_density, low_discrepancy


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, two hundred digits and hardly any training."""
    sizes = {"SEEDS": (1, 2), "STEPS": 4, "LONGER": 2, "CHANNELS": 4, "BATCH": 8, "SCALES": (1.5, 2.0), "CALLS": 2}
    for name, value in (sizes | {"COPIES": 1, "PART": 30, "ROUNDS": 1}).items():
        monkeypatch.setattr(short, name, value)
    images, labels = data.digits("all")
    parts = {"train": slice(0, 140), "test": slice(143, 203)}  # which does not begin with 0, 1, 2, …
    monkeypatch.setattr(data, "digits", lambda split: (images[parts[split]], labels[parts[split]]))
    return checkout


def family(good, bad):
    """Guidance by the denoiser `bad` in front of `good`, neither of which hears a label."""
    return lambda w, y: guidance.autoguidance(good, bad, w)


class Wiener:
    """The exact denoiser of N(mean, std² I), for pictures."""

    coupled, angle = False, None

    def __init__(self, mean, std=0.5):
        self.process, self.sigma_data, self.mean, self.std = RectifiedFlow(), std, mean, std

    def __call__(self, x, t):
        t = t.to(x.dtype).reshape(-1, 1, 1, 1)
        gain = (1 - t) * self.std**2 / ((1 - t) ** 2 * self.std**2 + t**2)
        return self.mean + gain * (x - (1 - t) * self.mean)


def test_the_weak_models_are_older_averages(small):
    D, weak = short.trained(1, 4)
    again, _ = short.trained(1, 4)
    assert list(weak) == list(short.QUARTERS.values())
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (*weak.values(), D)]
    steps = [float((b - a).norm()) for a, b in itertools.pairwise(weights)]
    assert min(steps) > 0
    assert torch.equal(weights[-1], torch.cat([p.flatten() for p in again.parameters()]))


def test_every_push_is_the_network_at_scale_one(small):
    D, weak = short.trained(1, 4)
    y = short.asked()[:5]
    x, t = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor(0.5)
    made = short.pushes(D, weak)
    assert tuple(made) == short.PUSHES
    with torch.no_grad():
        for name, of_scale in made.items():
            assert torch.equal(of_scale(1.0, y)(x, t), D.given(y)(x, t))
            away = weak[name].given(y)(x, t) if name in weak else D(x, t)
            torch.testing.assert_close(of_scale(3.0, y)(x, t), away + 3 * (D.given(y)(x, t) - away))
        outside = torch.tensor(0.9)  # r = 9
        assert torch.equal(made["no label, interval"](3.0, y)(x, outside), D.given(y)(x, outside))
    for name in ("no label", "after a half"):
        assert short.calls(made[name], 2.0) == 2 * short.CALLS
    assert short.CALLS <= short.calls(made["no label, interval"], 2.0) <= 2 * short.CALLS


def test_the_regression_finds_the_scale_with_the_least_loss(small):
    """The loss itself, at three scales from the same noise, is a parabola: its minimum and what it saves."""
    of_scale = family(Wiener(-0.3), Wiener(0.6, 1.0))
    fitted = short.regression(of_scale, 7)
    x0 = data.digits("test")[0]
    generator = torch.Generator().manual_seed(2007)
    t = low_discrepancy(logit_normal_density())(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator)

    def loss(w):
        return float(denoising_loss(of_scale(w, None), x0, t, eps, weight=velocity).mean())

    at = fitted["scale"]
    low, least, high = loss(at - 1), loss(at), loss(at + 1)
    assert low == pytest.approx(high, rel=1e-4)
    assert least < low
    assert fitted["loss"] == pytest.approx(loss(1.0), rel=1e-5)
    assert fitted["saved"] == pytest.approx(1 - least / fitted["loss"], rel=1e-3)


def test_no_push_helps_an_exact_denoiser(small, monkeypatch):
    """Data that are Gaussian, and their exact denoiser: nothing is left to regress on, whatever the weak model."""
    monkeypatch.setattr(short, "ROUNDS", 4)
    law = Wiener(0.2)
    x0 = 0.2 + 0.5 * torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(data, "digits", lambda split: (x0, torch.zeros(500, dtype=torch.int64)))
    for weak in (Wiener(0.2, 0.8), Wiener(-0.2)):
        fitted = short.regression(family(law, weak), 0)
        assert fitted["scale"] == pytest.approx(1, abs=0.05)  # standard error about 0.01
        assert 0 <= fitted["saved"] < 1e-3


def test_real_digits_are_judged_as_real(small):
    images, labels = data.digits("test")
    row = short.judged(images, labels)
    assert row["frechet"] == pytest.approx(0, abs=1e-3)
    assert row["within"] == pytest.approx(1)
    assert (row["precision"], row["recall"]) == (1, 1)
    noise = short.judged(torch.randn(images.shape, generator=torch.Generator().manual_seed(0)), labels)
    assert noise["frechet"] > 50
    copied = short.judged(data.digits("train")[0], data.digits("train")[1])
    assert copied["copy_rate"] == 1


def test_one_digit_of_each_class_is_precise_and_covers_little(small):
    images, labels = data.digits("test")
    first = torch.stack([(labels == k).nonzero()[0, 0] for k in range(10)])
    row = short.judged(images[first[labels]], labels)
    assert row["precision"] == 1
    assert row["recall"] < 0.5
    assert row["within"] == pytest.approx(0, abs=1e-6)
    assert short.judged(images, labels)["as_asked"] > 0.9
    assert short.judged(images, (labels + 1) % 10)["as_asked"] < 0.1


def test_the_floors_have_the_labels_that_are_asked_for(small, monkeypatch):
    seen = []
    monkeypatch.setattr(short, "judged", lambda x, y: seen.append((x, y)) or {})
    short.floors()
    images, labels = data.digits("train")
    assert len(seen) == 8
    for x, y in seen:
        where = (x[:, None] == images).all((2, 3, 4)).double().argmax(1)
        assert torch.equal(labels[where], y)
        assert torch.equal(y, short.asked().sort().values)
    assert not torch.equal(seen[0][0], seen[1][0])


def test_samples_share_their_noise_and_hear_their_labels(small):
    exact = Wiener(0.0)
    asked = []
    one, two = (short.drawn(lambda y: asked.append(y) or exact, 3) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.cat(asked), short.asked().repeat(2))
    assert not torch.equal(one, short.drawn(lambda y: exact, 4))


def test_everything_is_stored_and_resumed(small, monkeypatch):
    stages.main(["short"])
    kept = results.load("guidance-short")["data"]
    of_seed = [("none", 1.0), ("longer", 1.0), *((push, w) for push in short.PUSHES for w in (1.5, 2.0))]
    assert [(row["seed"], row["push"], row["w"]) for row in kept["rows"][:-2]] == [
        (s, *of) for s in (1, 2) for of in of_seed
    ]
    assert [(row["seed"], row["push"], row["calls"]) for row in kept["rows"][-2:]] == [(s, "finer", 4) for s in (1, 2)]
    assert [row["calls"] for row in kept["rows"][:4]] == [2, 2, 4, 4]
    assert all(0 <= row[of] <= 1 for row in kept["rows"] for of in ("as_asked", "precision", "recall", "copy_rate"))
    assert len(kept["real"]) == 8
    assert [fit["seed"] for fit in kept["fits"]] == [1, 2]
    assert set(kept["fits"][0]) == {"seed", "longer", *short.PUSHES}
    assert set(kept["shown"]) == {"none", "longer", *short.PUSHES}
    labels = short.asked().tolist()
    D, _ = short.trained(1, short.STEPS)
    first = short.drawn(D.given, 1)[[labels.index(k) for k in range(10)]]
    assert kept["shown"]["none"] == pictures.packed(first)
    assert kept["rows"][-2]["frechet"] == short.judged(short.drawn(D.given, 1, 4), short.asked())["frechet"]
    longer, _ = short.trained(1, 2 * short.STEPS)
    assert kept["rows"][1]["frechet"] == short.judged(short.drawn(longer.given, 1), short.asked())["frechet"]
    assert {len(text) for text in kept["shown"].values()} == {len(pictures.packed(first))}
    monkeypatch.setattr(short, "trained", None)  # nothing is trained again
    stages.main(["short"])
    assert results.load("guidance-short")["data"] == kept


def test_the_spread_inside_classes():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0], [5.0, 5.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert short.spread(features, y) == pytest.approx((2 + 8) / 2)
