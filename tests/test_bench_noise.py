"""The benchmark behind *Noise on purpose*, at a size that takes seconds."""

import json
import math

import pytest
import torch
from copies import Copies

from minidiff import data, zoo
from minidiff.bench import noise
from minidiff.denoiser import Denoiser
from minidiff.metrics import CountCalls
from minidiff.nets.unet import UNet
from minidiff.process import RectifiedFlow

F64 = torch.float64


def test_the_error_has_its_size_in_its_band_and_is_zero_outside():
    exact = noise.line()
    low, high = noise.BANDS["middle"]
    sizes = []
    for seed in range(40):
        D = noise.ErrorField(exact, (low, high), 0.2, seed)
        for r, window in ((math.sqrt(low * high), 1.0), (low * (high / low) ** 0.25, 0.5), (0.39, 0.0), (1.7, 0.0)):
            t = exact.process.time(torch.tensor(-math.log(r), dtype=F64))
            y = torch.randn(200, 1, generator=torch.Generator().manual_seed(seed), dtype=F64) * math.hypot(1, r)
            x = exact.process.alpha(t) * y
            error = D(x, t) - exact(x, t)
            sizes.append((window, float((error / (0.2 * exact.sigma_data)).square().mean())))
    for window in (1.0, 0.5, 0.0):
        mean = sum(size for w, size in sizes if w == window) / sum(w == window for w, _ in sizes)
        # a mean over 40 fields and 16 random features each: its standard error is below 0.1
        assert mean == pytest.approx(window**2, abs=0.4 * window**2)


def test_quantiles_and_distance():
    exact = noise.line()
    q = noise.quantiles(exact, 4000)
    cdf = (exact.weights[:, None] * torch.special.ndtr((q - exact.means) / 0.12)).sum(0)
    torch.testing.assert_close(cdf, (torch.arange(4000, dtype=F64) + 0.5) / 4000, rtol=0, atol=1e-6)
    shuffled = q[torch.randperm(4000, generator=torch.Generator().manual_seed(0))]
    assert noise.wasserstein(shuffled[:, None] + 0.25, q) == pytest.approx(0.25)


def test_the_walk_without_error_ends_at_the_data():
    exact = noise.line()
    q = noise.quantiles(exact, 2000)
    D = CountCalls(exact)
    for tau in (0.0, 1.0):
        assert noise.wasserstein(noise.walk(D, exact, 40, tau, 2, 0, 2000), q) < 0.1
    assert D.calls == 80


def test_spoiling_changes_the_weights_by_their_size():
    D = Denoiser(UNet(classes=10), RectifiedFlow(), "velocity")
    worse = noise.spoiled(D, 0.2)
    for before, after in zip(D.parameters(), worse.parameters(), strict=True):
        if before.ndim > 1 and before.numel() > 1000 and float(before.detach().square().mean()) > 0:
            ratio = float(((after - before).square().mean() / before.square().mean()).sqrt().detach())
            assert ratio == pytest.approx(0.2, rel=0.15)
        elif before.ndim == 1:
            assert torch.equal(before, after)


def test_the_benchmark_is_stored_and_resumes(monkeypatch, checkout, capsys):
    images, labels = data.digits("all")
    judge = zoo.load("digits-classifier")
    monkeypatch.setattr(data, "digits", lambda split: (images[:120], labels[:120]))
    monkeypatch.setattr(zoo, "load", lambda name: judge if "classifier" in name else Copies())
    for name, value in (
        ("PARTICLES", 200),
        ("TAUS", (0.0, 1.0)),
        ("STEPS", (5,)),
        ("FIELDS", 1),
        ("IMAGES", 80),
        ("RUNS", (("as trained", 0, (20,)), ("spoiled", 0, (20,)))),
    ):
        monkeypatch.setattr(noise, name, value)
    noise.main([])
    stored = {name: (checkout / f"book/results/noise-{name}.json").read_text() for name in ("mixture", "digits")}
    rows = {name: json.loads(text)["data"]["table"] for name, text in stored.items()}
    assert len(rows["mixture"]) == 2 * (1 + 2 * 3) * 2
    assert len(rows["digits"]) == 2 * 5
    assert json.loads(stored["digits"])["data"]["floor"] > 0
    capsys.readouterr()
    noise.main([])
    assert capsys.readouterr().out == ""
    for name, text in stored.items():
        assert (checkout / f"book/results/noise-{name}.json").read_text() == text
    with pytest.raises(ValueError, match="stages are"):
        noise.main(["nothing"])


@pytest.mark.parametrize("calls", [20, 100])
def test_every_method_makes_as_many_calls_as_its_row_says(calls):
    D = CountCalls(Copies())
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for draw in (noise.stochastic(calls, 0.5), noise.churned(calls, 5.0), noise.restarted(calls, 3)):
        D.calls = 0
        assert draw(D, x, torch.Generator().manual_seed(1)).isfinite().all()
        assert D.calls == calls
