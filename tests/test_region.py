"""Regions: exact where they are independent, blind to what lies elsewhere, and links that start as nothing."""

import pytest
import torch

from minidiff.analytic import Gaussian
from minidiff.denoiser import Denoiser
from minidiff.guidance import RegionLink, autoguidance, regional
from minidiff.nets.unet import UNet
from minidiff.process import LinearVP, RectifiedFlow
from minidiff.samplers import sample

F64 = torch.float64
HALF = torch.tensor(0.5, dtype=F64)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=gen(seed), dtype=F64)


def gaussian(means, stds, process=None):
    return Gaussian(process or LinearVP(), torch.tensor(means, dtype=F64), torch.diag(torch.tensor(stds).double() ** 2))


@pytest.mark.parametrize("process", [LinearVP(), RectifiedFlow()], ids=str)
def test_independent_regions_are_the_whole(process):
    """The first two coordinates of one law and the last of another: the denoiser and the samples of their product."""
    parts = gaussian([1.0, 2.0, 9.0], [0.3, 0.5, 0.1], process), gaussian([7.0, 7.0, -1.0], [1.0, 1.0, 0.8], process)
    whole = gaussian([1.0, 2.0, -1.0], [0.3, 0.5, 0.8], process)
    masks = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    D, x = regional(parts, masks), normal(5, 3)
    torch.testing.assert_close(D(x, HALF), whole(x, HALF))
    torch.testing.assert_close(sample(regional(parts, masks), x, 20), sample(D, x, 20))
    torch.testing.assert_close(
        D(x, torch.linspace(0.1, 1, 5, dtype=F64)), whole(x, torch.linspace(0.1, 1, 5, dtype=F64))
    )


def network():
    torch.manual_seed(0)
    net = UNet(1, 8, 8, attention=(), classes=3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Denoiser(net, LinearVP(), "v").double()


def halves():
    masks = torch.zeros(2, 8, 8)
    masks[0, :, :4], masks[1, :, 4:] = 1, 1
    return masks


def test_each_half_listens_to_its_own_label():
    D, x = network(), normal(2, 1, 8, 8)
    labels = [torch.full((2,), y) for y in (0, 2)]
    parts, masks = [D.given(y) for y in labels], halves()
    with torch.no_grad():
        left, right = (part(x, HALF) for part in parts)
        assert (left - right).abs().amin() > 0
        made = regional(parts, masks)(x, HALF)
        assert torch.equal(made[..., :4], left[..., :4])
        assert torch.equal(made[..., 4:], right[..., 4:])
        assert torch.equal(regional(parts[::-1], masks.flip(0))(x, HALF), made)  # tags and regions swapped together
        assert not torch.allclose(regional(parts[::-1], masks)(x, HALF), made)
        torch.testing.assert_close(regional([parts[1]] * 2, masks)(x, HALF), right)
        torch.testing.assert_close(regional(parts[:1], torch.ones(1, 1, 1))(x, HALF), left)
        nowhere = torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
        assert torch.equal(regional(parts, nowhere)(x, HALF), left)
        mixed = regional(parts, torch.stack([torch.full((8, 8), 3.0), torch.ones(8, 8)]))(x, HALF)
        torch.testing.assert_close(mixed, 0.75 * left + 0.25 * right)
        guided = autoguidance(regional(parts, masks), D, 2.0)(x, HALF)
        torch.testing.assert_close(guided, 2 * made - D(x, HALF))


def test_what_is_forwarded():
    coupled = Denoiser(UNet(1, 8, 8), RectifiedFlow(), "velocity", sigma_data=0.3, coupled=True)
    free = Denoiser(UNet(1, 8, 8), RectifiedFlow(), "velocity", sigma_data=0.5)
    D = regional([free, coupled], halves())
    assert (D.process, D.sigma_data, D.coupled, D.angle) == (RectifiedFlow(), 0.5, True, None)


def test_regional_refuses():
    D, other = gaussian([0.0, 0.0], [1.0, 1.0]), gaussian([0.0, 0.0], [1.0, 1.0], RectifiedFlow())
    x, both = torch.zeros(3, 2, dtype=F64), torch.ones(2, 2)
    for call, message in (
        (lambda: regional([D], both), "one mask a denoiser needed"),
        (lambda: regional([], torch.ones(0, 2)), "one mask a denoiser needed"),
        (lambda: regional([D, D], torch.ones(2)), "one mask a denoiser needed"),
        (lambda: regional([D, D], both * torch.nan), "masks must be finite"),
        (lambda: regional([D, D], torch.tensor([[1.0, -0.1], [0.0, 1.0]])), "must not be negative"),
        (lambda: regional([D, D], torch.tensor([[1.0, 0.0], [0.5, 0.0]])), "each place must lie"),
        (lambda: regional([D, other], both), "must share one process"),
        (lambda: regional([D, D], torch.ones(2, 3))(x, HALF), r"masks \(2, 3\) do not fit the samples of x \(3, 2\)"),
        (lambda: regional([D, D], torch.ones(2, 4, 2))(x, HALF), "do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# The link


def link():
    made = RegionLink(3, 5).double()
    torch.nn.init.normal_(made.link.weight, generator=gen())
    return made, normal(2, 2, 5, seed=1), normal(2, 3, 8, 8, seed=2)


def test_a_new_link_is_nothing():
    _, tags, features = link()
    assert torch.equal(RegionLink(3, 5).double()(tags, features, halves()), tags)


def test_a_link_pools_its_region():
    module, tags, features = link()
    made = module(tags, features, halves())
    for b in range(2):
        for k, columns in enumerate((slice(0, 4), slice(4, 8))):
            mean = features[b, :, :, columns].mean((1, 2))
            torch.testing.assert_close(made[b, k], tags[b, k] + module.link.weight @ mean)
    whole = module(tags, features, torch.ones(2, 8, 8))
    torch.testing.assert_close(whole, tags + (features.mean((2, 3)) @ module.link.weight.mT)[:, None])
    own = torch.stack([halves(), halves().flip(0)])  # masks of each sample
    torch.testing.assert_close(module(tags, features, own)[0], made[0])
    torch.testing.assert_close(module(tags, features, own)[1], module(tags, features, halves().flip(0))[1])


def test_tags_and_regions_swap_together():
    module, tags, features = link()
    made = module(tags, features, halves())
    torch.testing.assert_close(module(tags.flip(1), features, halves().flip(0)).flip(1), made)
    assert not torch.allclose(module(tags, features, halves().flip(0)), made)


def test_no_gradient_from_outside():
    module, tags, features = link()
    features.requires_grad_()
    module(tags, features, halves())[:, 0].square().sum().backward()
    assert features.grad[..., 4:].abs().max() == 0
    assert features.grad[..., :4].abs().min() > 0


def test_the_link_refuses():
    module, tags, features = link()
    empty = halves()
    empty[1] = 0
    for call, message in (
        (lambda: RegionLink(0, 5), "channels must be at least 1"),
        (lambda: RegionLink(3, 0), "width must be at least 1"),
        (lambda: module(tags, features, torch.ones(3, 8, 8)), "needed are tags"),
        (lambda: module(tags, features, torch.ones(2, 8, 4)), "needed are tags"),
        (lambda: module(tags, features[:1], halves()), "needed are tags"),
        (lambda: module(tags[0], features, halves()), "needed are tags"),
        (lambda: module(tags[..., :4], features, halves()), r"needed are tags \(B, K, 5\)"),
        (lambda: module(tags, features[:, :2], halves()), r"features \(B, 3, H, W\)"),
        (lambda: module(tags, features, 2 * halves()), r"masks must lie in \[0, 1\]"),
        (lambda: module(tags, features, empty), "a region must not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
