"""Toys against the exact moments of their laws, images against the files they come from, streams and photographs."""

import math
import sys
from pathlib import Path

import pytest
import torch

from minidiff import data
from minidiff.data import images as images_module

TOYS = [data.eight_gaussians, data.two_moons, data.swiss_roll, data.checkerboard, data.spirals]


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("seed", range(5))
def test_toys_have_mean_zero_and_variance_one(toy, seed):
    # Each statistic against its own standard error; 5 s.e. over 100 statistics fails by chance once in 20 000 times.
    x = toy(100_000, seed).double()
    for statistic in (x, x.square() - 1):
        error = statistic.std(0) / math.sqrt(len(x))
        assert (statistic.mean(0).abs() < 5 * error).all()


@pytest.mark.parametrize("toy", TOYS)
def test_toys_are_seeded_float32_of_any_length(toy):
    assert toy(7, seed=3).shape == (7, 2)
    assert toy(7).dtype == torch.float32
    assert torch.equal(toy(7, seed=3), toy(7, seed=3))
    assert not torch.equal(toy(7, seed=3), toy(7, seed=4))
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        toy(0)


def test_eight_gaussians_have_eight_equal_modes_of_width_one_tenth():
    x = data.eight_gaussians(40_000).double() * math.sqrt(0.51)
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    centres = torch.stack([angle.cos(), angle.sin()], 1)
    distance, mode = torch.cdist(x, centres).min(1)
    # 5000 ± 66 a mode; E|x − c|² = 2·0.01 with standard deviation 0.02, so ± 1e-4. Other modes are 7.6 widths away.
    assert (mode.bincount() - 5000).abs().max() < 5 * 66
    assert abs(distance.square().mean() - 0.02) < 5e-4


def test_two_moons_lie_on_half_circles():
    x = data.two_moons(20_000).double() * torch.tensor([0.75 + 0.0025, 9 / 16 - 1 / math.pi + 0.0025]).sqrt()
    x = x + torch.tensor([0.5, 0.25])
    upper = (x.norm(dim=1) - 1).abs()
    lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs()
    assert torch.minimum(upper, lower).max() < 6 * 0.05


@pytest.mark.parametrize(
    ("toy", "mean", "variance", "noise", "arms"),
    [
        (
            data.swiss_roll,
            (2, 2 / (3 * math.pi)),
            (39 * math.pi**2 / 8 - 4, 39 * math.pi**2 / 8 + 0.5 - 4 / (9 * math.pi**2)),
            0.5,
            1,
        ),
        (data.spirals, (0, 0), (9 * math.pi**2 / 4 + 0.79, 9 * math.pi**2 / 4 - 0.71), 0.2, 2),
    ],
)
def test_spirals_lie_on_their_arms(toy, mean, variance, noise, arms):
    x = toy(1000).double() * torch.tensor(variance).sqrt() + torch.tensor(mean)
    angle = torch.linspace(0, 14.5, 8000, dtype=torch.float64)
    arm = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    curve = torch.cat([arm, -arm][:arms])
    assert torch.cdist(x, curve).min(1).values.max() < 6 * noise


def test_checkerboard_fills_the_dark_squares_evenly():
    x = data.checkerboard(80_000).double() * math.sqrt(4 / 3) + 2
    square = x.floor().long()
    assert ((square >= 0) & (square < 4)).all()
    assert (square.sum(1) % 2 == 0).all()
    counts = (4 * square[:, 0] + square[:, 1]).bincount()
    assert (counts[counts > 0] - 10_000).abs().max() < 5 * 94  # sqrt(80 000 · 1/8 · 7/8)
    assert abs((x % 1).mean() - 0.5) < 5 * math.sqrt(1 / 12 / 160_000)


def test_digits_are_scikit_learns_with_17_levels():
    from sklearn.datasets import load_digits

    images, labels = data.digits("all")
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert torch.equal(((images[:, 0] + 1) * 8).double(), torch.from_numpy(load_digits().images))
    assert torch.equal(images.unique(), torch.arange(17) / 8 - 1)
    assert labels.tolist() == load_digits().target.tolist()


def test_digits_split_is_fixed_stratified_and_complete():
    (train, train_labels), (test, test_labels), (both, both_labels) = map(data.digits, ("train", "test", "all"))
    assert (len(train), len(test)) == (1437, 360)
    # Every fifth of the images sorted by label: a class of m images gives m/5 ± 1 to the test part.
    assert (test_labels.bincount() - both_labels.bincount() / 5).abs().max() < 1

    def rows(images, labels):
        return sorted(map(tuple, torch.cat([labels[:, None].float(), images.flatten(1)], 1).tolist()))

    assert sorted(rows(train, train_labels) + rows(test, test_labels)) == rows(both, both_labels)
    assert torch.equal(test, data.digits("test")[0])


@pytest.mark.parametrize("size", [16, 32])
def test_enlarged_digits_hold_the_same_picture(size):
    small, labels = data.digits("test")
    large, same = data.digits("test", size=size)
    assert large.shape == (360, 1, size, size)
    assert torch.equal(labels, same)
    assert large.abs().max() <= 1
    # The means over the old pixels give the old image back but for its curvature: of all digits, it is the nearest.
    back = torch.nn.functional.avg_pool2d(large, size // 8)
    assert torch.equal(torch.cdist(back.flatten(1), small.flatten(1)).argmin(1), torch.arange(360))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "'train', 'test' or 'all', got 'validation'"),
        ({"size": 28}, "size must be 8, 16 or 32, got 28"),
    ],
)
def test_digits_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.digits(**arguments)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"sklearn is needed.*pip install \"minidiff\[book\]\""):
        data.digits()


def test_photo_patches_are_crops_of_the_photographs():
    patches, labels = data.photo_patches(size=12, n=60, seed=4)
    assert patches.shape == (60, 3, 12, 12)
    assert patches.dtype == torch.float32
    assert patches.abs().max() <= 1
    photographs = images_module._photographs()
    for patch, label in zip(patches[:12], labels[:12].tolist(), strict=True):
        photograph = photographs[label]
        train = photograph[..., : photograph.shape[2] - photograph.shape[2] // 4]
        windows = train.unfold(1, 12, 1).unfold(2, 12, 1)
        corners = windows[..., 0, 0], windows[..., 0, 11]  # a crop, or one that was flipped
        assert any(
            torch.equal(windows[:, i, j], candidate)
            for corner, candidate in zip(corners, (patch, patch.flip(-1)), strict=True)
            for i, j in (corner == patch[:, 0, 0, None, None]).all(0).nonzero().tolist()
        )


def test_photo_patches_take_photographs_and_flips_evenly():
    patches, labels = data.photo_patches(size=4, n=9000, seed=1)
    assert labels.unique().tolist() == list(range(9))
    assert (labels.bincount() - 1000).abs().max() < 5 * 30  # sqrt(9000 · 1/9 · 8/9) = 30
    # The law of the patches is symmetric under reflection, so a mean left-to-right slope is zero within its error.
    slope = (patches[..., -1] - patches[..., 0]).mean(dim=(1, 2)).double()
    assert abs(slope.mean()) < 5 * slope.std() / math.sqrt(len(slope))


def test_held_out_columns_are_the_last_quarter(monkeypatch):
    ramp = torch.arange(40.0).expand(3, 20, 40)
    monkeypatch.setattr(images_module, "_photographs", lambda: {2: ramp, 5: ramp})
    train, _ = data.photo_patches(5, 400)
    test, labels = data.photo_patches(5, 400, split="test")
    assert (train.min(), train.max(), test.min(), test.max()) == (0, 29, 30, 39)
    assert labels.unique().tolist() == [2, 5]


def test_photo_patches_are_seeded():
    first, again, other = (data.photo_patches(8, 20, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_photo_patches_leave_an_absent_photograph_out_but_need_six(monkeypatch):
    everything = images_module.PHOTOGRAPHS
    absent = [("skimage", "data/no_such.png"), ("no_such_package", "a.png"), everything[2]]
    monkeypatch.setattr(images_module, "PHOTOGRAPHS", (*absent, *everything[3:8]))
    assert data.photo_patches(8, 300)[1].unique().tolist() == [2, 3, 4, 5, 6, 7]
    monkeypatch.setattr(images_module, "PHOTOGRAPHS", (*absent, *everything[3:7]))
    with pytest.raises(ImportError, match=r"needs 6 of the 7 photographs.*found 5: pip install"):
        data.photo_patches(8, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "all"}, "'train' or 'test', got 'all'"),
        ({"size": 57, "split": "test"}, "size must be at most 56 for split 'test', got 57"),
        ({"n": 0}, "n must be at least 1, got 0"),
    ],
)
def test_photo_patches_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.photo_patches(**arguments)


def test_no_downloader_is_loaded_for_photographs():
    # skimage.data could fetch what is missing; the files are read by their path instead.
    code = "import sys; from minidiff.data import photo_patches; photo_patches(8, 4)"
    code += "; assert not {'pooch', 'skimage', 'sklearn'} & set(sys.modules), 'imported'"
    import subprocess

    root = Path(data.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_batches_leave_no_row_out_when_the_size_divides():
    stream = data.batches(torch.arange(12), batch_size=4, seed=0)
    for _ in range(3):
        assert sorted(torch.cat([next(stream)[0] for _ in range(3)]).tolist()) == list(range(12))


def test_batches_visit_every_row_once_an_epoch_and_keep_rows_together():
    x, y = torch.arange(10.0)[:, None], torch.arange(10)
    stream = data.batches(x, y, batch_size=3, seed=0)
    epochs = [[next(stream) for _ in range(3)] for _ in range(200)]
    seen = [torch.cat([labels for _, labels in epoch]) for epoch in epochs]
    assert all(torch.equal(rows[:, 0], labels.float()) for epoch in epochs for rows, labels in epoch)
    assert all(len(labels.unique()) == 9 for labels in seen)
    assert len({tuple(labels.tolist()) for labels in seen}) == 200  # shuffled anew
    # Which row is dropped is uniform: 20 ± 4.2 times of 200.
    assert (torch.cat(seen).bincount(minlength=10) - 180).abs().max() < 5 * 4.25


def test_batches_depend_on_the_seed_alone():
    x = torch.arange(50)
    streams = [data.batches(x, batch_size=7, seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([next(stream)[0].tolist() for _ in range(20)] for stream in streams)
    assert first == again != other


@pytest.mark.parametrize(
    ("tensors", "size", "error", "message"),
    [
        ((), 1, ValueError, "at least one tensor"),
        ((torch.zeros(3), torch.zeros(4)), 1, ValueError, r"same length, got \[3, 4\]"),
        ((torch.zeros(3),), 4, ValueError, "at most the number of rows 3, got 4"),
        ((torch.zeros(3),), 0, ValueError, "batch_size must be at least 1, got 0"),
        ((torch.zeros(3),), 2.0, TypeError, "batch_size must be an integer, got float"),
        (([1, 2],), 1, TypeError, r"shape \(N, ...\), got \[1, 2\]"),
        ((torch.tensor(1.0),), 1, TypeError, r"shape \(N, ...\)"),
    ],
)
def test_batches_refuse_at_the_call(tensors, size, error, message):
    with pytest.raises(error, match=message):
        data.batches(*tensors, batch_size=size, seed=0)
