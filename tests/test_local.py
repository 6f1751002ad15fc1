"""Local machines, against loops, the copier, and what a window means."""

import pytest
import torch

from minidiff.analytic import Empirical
from minidiff.local import LocalEmpirical
from minidiff.process import EDM, LinearVP, RectifiedFlow

F64 = torch.float64
every_kind = pytest.mark.parametrize("equivariant", [False, True])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def window(image, row, column, radius):
    """The pixels of all channels in the window, and how far it reaches to each side."""
    height, width = image.shape[1:]
    up, left = min(radius, row), min(radius, column)
    down, right = min(radius, height - 1 - row), min(radius, width - 1 - column)
    return image[:, row - up : row + down + 1, column - left : column + right + 1], (up, down, left, right)


def by_loops(x, t, process, data, radius, equivariant):
    alpha, sigma = process.alpha(t), process.sigma(t)
    made = torch.empty_like(x)
    places = [(i, j) for i in range(x.shape[2]) for j in range(x.shape[3])]
    for b, (i, j) in [(b, place) for b in range(len(x)) for place in places]:
        seen, reach = window(x[b], i, j, radius)
        logits, values = [], []
        for image in data:
            for k, h in places if equivariant else [(i, j)]:
                known, other = window(image, k, h, radius)
                if other == reach:
                    logits.append(-(seen - alpha * known).square().sum() / (2 * sigma**2))
                    values.append(image[:, k, h])
        made[b, :, i, j] = torch.stack(logits).softmax(0) @ torch.stack(values)
    return made


@every_kind
@pytest.mark.parametrize("radius", [0, 1, 2])
def test_equals_loops(radius, equivariant):
    data, x, t = draw(5, 2, 4, 3), draw(3, 2, 4, 3, seed=1), torch.tensor(0.4, dtype=F64)
    process = LinearVP()
    D = LocalEmpirical(process, data, radius, equivariant)
    torch.testing.assert_close(D(x, t), by_loops(x, t, process, data, radius, equivariant))


@every_kind
@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow(), EDM()], ids=repr)
def test_a_window_over_everything_is_the_copier(process, equivariant):
    data, x = draw(6, 1, 4, 4), draw(5, 1, 4, 4, seed=1)
    t = torch.rand(5, generator=torch.Generator().manual_seed(2), dtype=F64)
    D = LocalEmpirical(process, data, 3, equivariant)
    torch.testing.assert_close(D(x, t), Empirical(process, data)(x, t))
    assert D.sigma_data == pytest.approx(Empirical(process, data).sigma_data)


@every_kind
def test_a_pixel_depends_on_its_window_alone(equivariant):
    D = LocalEmpirical(RectifiedFlow(), draw(6, 1, 5, 5), 1, equivariant)
    x, t = draw(1, 1, 5, 5, seed=1), torch.tensor(0.5, dtype=F64)
    changed = x.clone()
    changed[0, 0, 4, 4] += 1.0
    moved = (D(changed, t) - D(x, t)).abs()[0, 0] > 1e-12
    assert moved[3:, 3:].all() and moved.sum() == 4


def test_equivariant_rule_is_the_same_inside():
    """A picture whose inner window appears elsewhere gets the same answer there."""
    D = LocalEmpirical(RectifiedFlow(), draw(6, 1, 6, 6), 1, equivariant=True)
    x = draw(1, 1, 6, 6, seed=1)
    x[..., 2:5, 3:6] = x[..., 1:4, 0:3]
    shifted = torch.roll(x, (1, 1), (2, 3))
    made, other = (D(v, torch.tensor(0.5, dtype=F64)) for v in (x, shifted))
    torch.testing.assert_close(other[..., 2:5, 2:5], made[..., 1:4, 1:4])


@every_kind
def test_ends_are_finite(equivariant):
    data = draw(6, 1, 4, 4)
    D = LocalEmpirical(RectifiedFlow(), data, 1, equivariant)
    torch.testing.assert_close(D(data[:2], torch.tensor(0.0, dtype=F64)), data[:2])
    far = D(draw(2, 1, 4, 4, seed=1), torch.tensor(1.0, dtype=F64))
    if not equivariant:
        torch.testing.assert_close(far, data.mean(0).expand(2, -1, -1, -1))
    assert far.isfinite().all()


@every_kind
def test_parts_of_a_batch_do_not_matter(equivariant, monkeypatch):
    data, x, t = draw(6, 1, 4, 4), draw(7, 1, 4, 4, seed=1), torch.full((7,), 0.3, dtype=F64)
    D = LocalEmpirical(RectifiedFlow(), data, 1, equivariant)
    whole = D(x, t)
    monkeypatch.setattr("minidiff.local.ENTRIES", 100)
    torch.testing.assert_close(D(x, t), whole)
    assert D(x.float(), t.float()).dtype == torch.float32


def test_arguments_are_checked():
    process, data = RectifiedFlow(), draw(6, 1, 4, 4)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        LocalEmpirical(process, data, -1)
    with pytest.raises(ValueError, match=r"data must have shape \(N, C, H, W\)"):
        LocalEmpirical(process, data[0], 1)
    with pytest.raises(ValueError, match="data must be finite"):
        LocalEmpirical(process, data * torch.nan, 1)
    with pytest.raises(ValueError, match=r"x must have shape \(B, 1, 4, 4\), got \(2, 1, 4, 5\)"):
        LocalEmpirical(process, data, 1)(draw(2, 1, 4, 5), torch.tensor(0.5))
    with pytest.raises(ValueError, match="t must lie in"):
        LocalEmpirical(process, data, 1)(data, torch.tensor(1.5))
