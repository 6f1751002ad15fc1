"""The sampler benchmark, at a size that takes seconds."""

import base64
import io
import json
import math

import pytest
import torch
from PIL import Image
from torch import nn

from minidiff import data, samplers, zoo
from minidiff.analytic import GaussianMixture
from minidiff.bench import contenders, judging, reference, sprites
from minidiff.bench import samplers as bench
from minidiff.denoiser import Denoiser
from minidiff.process import RectifiedFlow

NAMES = [contender.name for contender in contenders.contenders()]
KNOWN = dict(zip(NAMES, contenders.contenders(), strict=True))

OURS = ("minidiff.sample", "minidiff.sample, σ_data alone")


class Wiener(nn.Module):
    """The velocity of the exact denoiser of N(0, s²): û = (x − D)/t with D the Wiener filter."""

    def __init__(self, s=0.5):
        super().__init__()
        self.s = s

    def forward(self, x, t, y=None):
        t = t.clamp(min=1e-4)
        return (x - x * (1 - t) * self.s**2 / ((1 - t) ** 2 * self.s**2 + t**2)) / t


class Judge(nn.Module):
    """Features and logits that are ten pixels."""

    def features(self, x):
        return x.flatten(1)[:, 20:30]

    def head(self, features):
        return features

    def forward(self, x):
        return self.features(x)


def gaussian(d=3, s=0.5):
    covariance = s**2 * torch.eye(d, dtype=torch.float64)[None]
    return GaussianMixture(RectifiedFlow(), torch.ones(1).double(), torch.zeros(1, d).double(), covariance)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A checkout with an empty book/results, and models that cost nothing."""
    (tmp_path / "book" / "results").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    models = {"unet": lambda: Denoiser(Wiener(), RectifiedFlow(), "velocity", 0.5), "classifier": Judge}
    monkeypatch.setattr(zoo, "load", lambda name: models[name.split("-")[1]]())
    patches = torch.rand(700, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def crops(size, n, split="train", seed=0):
        order = torch.randperm(700, generator=torch.Generator().manual_seed(seed))[: min(n, 700)]
        return patches[order], order % 9

    monkeypatch.setattr(data, "photo_patches", crops)
    return tmp_path


def little(make):
    """A setting with fewer samples and shorter references."""

    def made(folder):
        setting = make(folder)
        setting.labels = setting.labels[:60]
        setting.paths, setting.fine, setting.copies = 5, 24, 10
        setting.held_out = tuple(part[:3] for part in setting.held_out)
        return setting

    return made


def stored(folder, name):
    return json.loads((folder / "book" / "results" / f"{name}.json").read_text())["data"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 2, 5, 8, 20])
def test_every_contender_keeps_its_budget_and_ends_clean(name, budget):
    D, contender = gaussian(), KNOWN[name]
    calls = contenders.calls_made(contender, D, (3,), budget)
    if calls == 0:
        with pytest.raises(ValueError, match=f"makes no step with {budget} calls"):
            contenders.run(contender, D, torch.zeros(2, 3).double(), budget)
        return
    eps = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = contenders.run(contender, D, eps, budget, torch.Generator().manual_seed(1))
    assert made.calls == calls <= budget
    assert bool(made.x.isfinite().all())
    again = contenders.run(contender, D, eps, budget, torch.Generator().manual_seed(2))
    assert torch.equal(made.x, again.x) == (not contender.stochastic) or calls == 1


@pytest.mark.parametrize("name", [name for name in NAMES if not KNOWN[name].stochastic])
def test_deterministic_contenders_converge_to_the_reference_of_their_start(name):
    D = gaussian()
    eps = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = contenders.run(KNOWN[name], D, eps, 199)
    exact = reference.solution(D, eps, "one" if made.from_one else "far", 100)
    tolerance = 0.03 if "cut" in name else 0.02
    torch.testing.assert_close(made.x, exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("start", ["one", "far"])
def test_the_reference_is_the_flow_of_a_gaussian(start):
    """It keeps quantiles: from r = ∞ to s ε, from r = 80 to r ε s/√(r² + s²)."""
    eps = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = 0.5 if start == "one" else 0.5 * 80 / math.hypot(80, 0.5)
    for solver, tolerance in ((reference.solution, 1e-5), (reference.other_solution, 5e-3)):
        torch.testing.assert_close(solver(gaussian(), eps, start, 101), scale * eps, rtol=tolerance, atol=1e-8)


def test_names_are_unique_also_as_files():
    assert len(set(NAMES)) == len({bench.slug(name) for name in NAMES}) == len(NAMES)
    assert {*bench.REPEATED, *bench.MANY, *bench.LONG_METHODS, *bench.PHOTO_METHODS, *sprites.METHODS} <= set(NAMES)
    assert set(bench.PHOTO_MANY) | {name for name, _ in bench.PHOTO_REPEATED} <= set(bench.PHOTO_METHODS)
    assert set(sprites.METHODS) <= set(bench.PHOTO_METHODS) and set(sprites.BUDGETS) <= set(bench.PHOTO_BUDGETS)


def test_cells_that_make_as_many_calls_are_made_once(small):
    setting = judging.digits(small)
    phases = bench.distinct([[(bench.TARGET[0], n, 0) for n in (1, 2, 3, 4)], [("Ancestral", 3, 0)] * 2], setting)
    assert [[(c.name, n) for c, n, _ in cells] for cells in phases] == [
        [("Heun, Karras", 1), ("Heun, Karras", 3)],
        [("Ancestral", 3)],
    ]
    for plan in (bench.digit_cells(), bench.photo_cells()):
        assert {name for cells in plan for name, _, _ in cells} <= set(NAMES)


def test_a_run_is_stored_and_goes_on(small, monkeypatch):
    cells = [("minidiff.sample", 1, 0), ("minidiff.sample", 6, 0), ("Heun, Karras", 6, 1), ("Ancestral", 2, 0)]
    bench.stage("digits", little(judging.digits), lambda: [cells[:2], cells[2:]])
    result = stored(small, "samplers-digits")
    assert result["missing"] == 0 and result["n"] == 60 and result["paths"] == 5
    one, six, heun, noisy = result["rows"]
    assert (one["calls"], six["calls"], heun["calls"], noisy["calls"]) == (1, 6, 5, 2)
    assert six["path_rms"] < one["path_rms"] and six["path_rms"] == six["path_from_one_rms"]
    assert heun["path_rms"] != heun["path_from_one_rms"] and not heun["from_one"]
    assert noisy["stochastic"] and "path_rms" not in noisy
    assert all(row["frechet"] >= 0 and 0 <= row["precision"] <= 1 and row["cpu_seconds"] > 0 for row in result["rows"])
    assert result["reference"]["rms"] < 0.05 and result["real"]["floor"] > 0 and result["bits"]["levels"] == 17
    monkeypatch.setattr(bench, "cell", None)  # nothing is made again
    bench.stage("digits", little(judging.digits), lambda: [cells])
    assert stored(small, "samplers-digits") == result


def test_what_is_missing_is_said_while_a_run_lasts(small, monkeypatch):
    left = []
    save = bench.results.save
    monkeypatch.setattr(bench.results, "save", lambda *a: left.append(a[1]["missing"]) or save(*a))
    bench.stage("digits", little(judging.digits), lambda: [[("minidiff.sample", 1, 0)], [("Ancestral", 1, 0)]])
    assert left == [1, 0]


def test_samples_that_are_not_finite_are_an_error(small):
    setting = judging.digits(small)
    with pytest.raises(FloatingPointError, match="64 numbers of the samples are not finite"):
        setting.judged(torch.cat([torch.full((1, 1, 8, 8), math.nan), torch.zeros(9, 1, 8, 8)]))


def test_a_third_is_stratified():
    labels = torch.arange(10).repeat(31)
    chosen, rest = judging.third(labels, 0)
    assert len(chosen) == 104 and sorted([*chosen.tolist(), *rest.tolist()]) == list(range(310))
    assert labels[chosen].bincount().tolist() == pytest.approx([10.4] * 10, abs=1)
    assert not torch.equal(chosen, judging.third(labels, 1)[0])


def test_a_path_error_on_a_gaussian_is_known(small):
    """DDIM to one step from t = 1 returns the mean, 0: every path ends |s ε| away from where it should."""
    setting = little(judging.digits)(small)
    row = bench.cell(setting, KNOWN["Euler, uniform t"], 1, 0)
    exact = 0.5 * setting.start_noise(0)[:5]
    expected = (exact.square().mean().sqrt() / 0.5).item()
    assert row["path_rms"] == pytest.approx(expected, rel=1e-2)
    assert row["ms_per_call"] == pytest.approx(1e3 * row["cpu_seconds"] / 60)


def test_photos_and_their_sprites_are_stored(small, monkeypatch):
    monkeypatch.setattr(sprites, "METHODS", ("minidiff.sample", "Heun, Karras"))
    monkeypatch.setattr(sprites, "BUDGETS", (1, 2, 3))
    with pytest.raises(FileNotFoundError, match="run photos first"):
        bench.sprites()
    cells = [(name, n, 0) for name in sprites.METHODS for n in sprites.BUDGETS]
    monkeypatch.setattr(bench, "photos", little(judging.photos))
    monkeypatch.setattr(bench, "photo_cells", lambda: [cells])
    bench.main(["photos", "sprites"])
    result = stored(small, "samplers-photos")
    assert result["bits"]["levels"] == 256 and not any("sheet" in row for row in result["rows"])
    sheet = stored(small, "samplers-sprites")
    assert sheet["calls"] == [[1, 2, 3], [1, 1, 3]]
    picture = Image.open(io.BytesIO(base64.b64decode(sheet["png"])))
    assert picture.mode == "P" and picture.size == (3 * (8 * 33 + 1), 2 * (3 * 33 + 1))


def test_a_mosaic_keeps_places():
    files = []
    for level in (0, 100, 200, 255):
        buffer = io.BytesIO()
        Image.new("L", (4, 3), level).save(buffer, format="png")
        files.append(buffer.getvalue())
    picture = Image.open(io.BytesIO(sprites.mosaic([files[:2], files[2:]]))).convert("L")
    assert [picture.getpixel(place) for place in ((0, 0), (5, 1), (1, 4), (6, 5))] == [0, 100, 200, 255]


def test_stages_have_names():
    with pytest.raises(ValueError, match=r"stages are \['digits', 'photos', 'sprites'\], got 'faces'"):
        bench.main(["faces"])


def test_the_default_is_ours():
    D, eps = gaussian(), torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = contenders.run(KNOWN["minidiff.sample"], D, eps, 5)
    assert made.from_one and torch.equal(made.x, samplers.sample(D, eps, 5))


def test_the_default_sampler_with_and_without_the_spectrum():
    """On a denoiser with an angle the two differ; on one without they are one."""
    net = zoo.load("photos-unet")
    D, eps = net.given(torch.tensor([3])), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    known = {contender.name: contender for contender in contenders.contenders()}
    heeded, ignored = (contenders.run(known[name], D, eps, 2).x for name in OURS)
    assert float((heeded - ignored).abs().max()) > 0.01
    assert torch.equal(heeded, samplers.sample(D, eps, 2))
    D.angle = None
    heeded, again = (contenders.run(known[name], D, eps, 2).x for name in OURS)
    assert torch.equal(heeded, again)
    assert torch.equal(again, ignored)
