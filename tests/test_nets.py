"""Networks: the time embedding tells times apart, layers equal their formulas, conditioning means what it says."""

import math

import pytest
import torch
import torch.nn.functional as F

from minidiff.nets import MLP, Classifier, Conditioning, UNet, time_features
from minidiff.nets.unet import Attention, ResidualBlock
from minidiff.train import seeded


def awake(net, seed=0):
    """The network in float64 with every parameter random: nothing is hidden behind a layer that starts at zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=generator).double() * (0.5 if p.ndim == 1 else p[0].numel() ** -0.5)
    return net.double()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NETS = {
    "mlp": (lambda classes: MLP(64, width=24, depth=2, classes=classes), (1, 8, 8)),
    "unet": (lambda classes: UNet(channels=8, classes=classes), (1, 8, 8)),
    "unet of three levels": (
        lambda classes: UNet(3, 16, 8, (1, 2, 2), blocks=2, attention=(8, 4), classes=classes),
        (3, 16, 16),
    ),
}
nets = pytest.mark.parametrize(("build", "shape"), NETS.values(), ids=NETS)


# The embedding of time


def test_time_features_are_half_cosines_half_sines_of_geometric_frequencies():
    t = torch.linspace(-5, 5, 7, dtype=torch.float64)
    omega = [0.3 * (100 / 0.3) ** (i / 15) for i in range(16)]
    naive = [[f(w * s) for f in (math.cos, math.sin) for w in omega] for s in t.tolist()]
    torch.testing.assert_close(time_features(t, 32), torch.tensor(naive, dtype=torch.float64))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-5, 5)], ids=["t", "c_noise"])
def test_time_features_tell_all_times_apart(low, high):
    """Over the whole range the distance of features is at least that of times, saturating at 0.4 of the largest, 2."""
    t = torch.linspace(low, high, 1001, dtype=torch.float64)
    features = time_features(t, 32) / math.sqrt(16)  # on the unit sphere
    distance, apart = torch.cdist(features, features), (t[:, None] - t).abs()
    assert bool((distance >= apart.clamp(max=0.8) - 1e-7).all())


def test_times_0_and_1_are_not_alike():
    """With the frequencies of integer steps they would be: cosine similarity 0.97 for 10^-4 … 1 on [0, 1]."""
    ends = torch.tensor([0.0, 1.0])
    similarity = F.cosine_similarity(*time_features(ends, 64), dim=0)
    steps = torch.outer(ends, 10 ** torch.linspace(0, -4, 32))
    trap = F.cosine_similarity(*torch.cat([steps.cos(), steps.sin()], 1), dim=0)
    assert similarity < 0.5 < 0.9 < trap


def test_half_precision_leaves_frequencies_alone():
    t = torch.tensor([0.25, 0.5, 0.75])  # exact in bfloat16
    assert time_features(t.bfloat16(), 32).dtype == torch.float32
    assert torch.equal(time_features(t.bfloat16(), 32), time_features(t, 32))
    net = Conditioning(32, 8).bfloat16()
    assert net(t.bfloat16(), None, 3).dtype == torch.bfloat16


# What every network does


@nets
@pytest.mark.parametrize("classes", [None, 3])
def test_a_new_network_returns_zero_in_the_shape_of_x(build, shape, classes):
    x = draw(2, *shape).float()
    assert torch.equal(build(classes)(x, torch.tensor(0.5)), torch.zeros_like(x))


@nets
def test_one_time_serves_the_whole_batch(build, shape):
    net, x, t, y = awake(build(3)), draw(4, *shape), torch.tensor(0.3, dtype=torch.float64), torch.arange(4)
    torch.testing.assert_close(net(x, t, y), net(x, t.expand(4), y))
    torch.testing.assert_close(net(x, t), net(x, t.expand(4)))


@nets
def test_no_label_is_the_null_label(build, shape):
    net, x, t = awake(build(3)), draw(4, *shape), draw(4).sigmoid()
    torch.testing.assert_close(net(x, t), net(x, t, torch.full((4,), 3)))


@nets
def test_rows_are_independent_and_see_their_own_time_and_label(build, shape):
    net, x, t, y = awake(build(3)), draw(4, *shape), torch.linspace(0.1, 0.9, 4).double(), torch.tensor([0, 1, 2, 3])
    together = net(x, t, y)
    alone = torch.cat([net(x[i : i + 1], t[i], y[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)
    for other in (net(x, t, y.flip(0)), net(x, t.flip(0), y)):
        assert bool(((together - other).flatten(1).abs().amax(1) > 1e-3).all())


@nets
def test_every_parameter_is_used(build, shape):
    net = awake(build(3))
    net(draw(4, *shape), draw(4).sigmoid(), torch.arange(4)).square().sum().backward()
    unused = [name for name, p in net.named_parameters() if float(p.grad.abs().max()) == 0]
    assert unused == []


@nets
def test_float32_agrees_with_float64(build, shape):
    net, x, t = awake(build(None)), draw(4, *shape), draw(4).sigmoid()
    exact = net(x, t)
    torch.testing.assert_close(net.float()(x.float(), t.float()).double(), exact, rtol=1e-3, atol=1e-4)


@nets
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"t": torch.rand(3)}, ValueError, r"t must have shape \(\) or \(2,\) for 2 rows, got \(3,\)"),
        ({"t": torch.rand(2, 1)}, ValueError, "t must have shape"),
        ({"t": torch.tensor(1)}, TypeError, "t must be a floating-point tensor"),
        ({"y": torch.tensor([0, 4])}, ValueError, r"labels must lie in 0 … 3 \(3 means no label\), got 0 … 4"),
        ({"y": torch.tensor([-1, 1])}, ValueError, "labels must lie in 0 … 3"),
        ({"y": torch.tensor([0.0, 1.0])}, ValueError, r"y must be int64 of shape \(2,\), got torch.float32"),
        ({"y": torch.tensor([0])}, ValueError, r"y must be int64 of shape \(2,\)"),
        ({"x": torch.rand(2, 5, 3, 3)}, ValueError, r"x must be .*, got \(2, 5, 3, 3\)"),
        ({"x": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor"),
    ],
)
def test_bad_input(build, shape, change, error, message):
    with pytest.raises(error, match=message):
        build(3)(**({"x": torch.rand(2, *shape), "t": torch.rand(2), "y": torch.tensor([0, 1])} | change))


@nets
def test_an_unconditional_network_takes_no_labels(build, shape):
    with pytest.raises(ValueError, match="unconditional"):
        build(None)(torch.rand(2, *shape), torch.rand(2), torch.tensor([0, 1]))


# The layers of the U-Net against their formulas


def naive_group_norm(x, groups):
    grouped = x.reshape(len(x), groups, -1)
    mean, variance = grouped.mean(-1, keepdim=True), grouped.var(-1, correction=0, keepdim=True)
    return ((grouped - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)


def test_attention_is_its_formula():
    layer, x = awake(Attention(64)), draw(2, 64, 3, 5)
    normed = naive_group_norm(x, 8) * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
    pixels = normed.flatten(2).transpose(1, 2)
    q, k, v = (pixels @ layer.qkv.weight.T + layer.qkv.bias).split(64, dim=-1)
    heads = []
    for head in (slice(0, 32), slice(32, 64)):
        weights = torch.softmax(q[..., head] @ k[..., head].transpose(1, 2) / math.sqrt(32), dim=-1)
        heads.append(weights @ v[..., head])
    out = torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x), x + out.transpose(1, 2).reshape(x.shape))


def test_attention_commutes_with_permuting_the_pixels():
    layer, x, order = awake(Attention(32)), draw(2, 32, 4, 4), torch.randperm(16)
    permuted = x.flatten(2)[..., order].reshape(x.shape)
    torch.testing.assert_close(layer(permuted), layer(x).flatten(2)[..., order].reshape(x.shape))


@pytest.mark.parametrize("channels", [8, 16])
def test_residual_block_is_its_formula(channels):
    block, x, c = awake(ResidualBlock(8, channels, 4)), draw(2, 8, 4, 4), draw(2, 4, seed=1)
    normed = naive_group_norm(x, 8) * block.norm1.weight[:, None, None] + block.norm1.bias[:, None, None]
    h = F.conv2d(normed * normed.sigmoid(), block.conv1.weight, padding=1)
    film = c @ block.film.weight.T + block.film.bias
    a, b = film[:, :channels, None, None], film[:, channels:, None, None]
    h = (1 + a) * naive_group_norm(h, 8) + b
    h = F.conv2d(h * h.sigmoid(), block.conv2.weight, block.conv2.bias, padding=1)
    skip = x if channels == 8 else torch.einsum("oi,biyx->boyx", block.skip.weight[:, :, 0, 0], x)
    torch.testing.assert_close(block(x, c), skip + h)


@pytest.mark.parametrize(
    ("sides", "expected"), [((), 1), ((8,), 2 + 1 + 3), ((4,), 2 + 1 + 3), ((8, 4), 2 + 2 + 1 + 3 + 3)]
)
def test_attention_stands_at_the_chosen_sides_and_in_the_middle(sides, expected):
    """blocks = 2: two a level on the way down, three on the way up, one in the middle."""
    net = UNet(channels=8, blocks=2, attention=sides)
    assert sum(isinstance(m, Attention) for m in net.modules()) == expected
    seen = []
    for module in net.modules():
        if isinstance(module, Attention):
            module.register_forward_hook(lambda m, args, out: seen.append(args[0].shape[-1]))
    net(torch.rand(1, 1, 8, 8), torch.tensor(0.5))
    assert set(seen) == {*sides, 4}


def test_other_sizes_that_the_levels_divide():
    net = awake(UNet(channels=8))
    assert net(draw(2, 1, 12, 6), torch.tensor(0.5)).shape == (2, 1, 12, 6)


def test_seeded_networks_are_equal():
    def build(seed):
        with seeded(seed):
            return torch.cat([p.flatten() for p in UNet(channels=8).parameters()])

    assert torch.equal(build(0), build(0))
    assert not torch.equal(build(0), build(1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: UNet(size=6, multipliers=(1, 2, 2), attention=()),
            "3 levels need a size that is a multiple of 4, got 6",
        ),
        (lambda: UNet(attention=(16,)), r"attention must be among the sides \[8, 4\] of the levels, got \[16\]"),
        (lambda: UNet(channels=0), "channels must be at least 1, got 0"),
        (lambda: UNet(channels=50), "attention cannot split 100 channels into 3 equal heads"),
        (lambda: UNet(channels=3), "features must be at least 4, got 3"),
        (lambda: MLP(0), "dim must be at least 1, got 0"),
        (lambda: MLP(2, classes=0), "classes must be at least 1, got 0"),
        (lambda: Classifier(size=7), "size must be even, got 7"),
        (lambda: UNet(channels=7), r"features must be even \(half cosines, half sines\), got 7"),
    ],
)
def test_bad_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# The classifier


def test_classifier_logits_come_from_its_features():
    net, x = awake(Classifier(features=16)), draw(3, 1, 8, 8)
    features = net.features(x)
    assert features.shape == (3, 16)
    assert bool((features >= 0).all())
    assert bool((features == 0).any())  # some units are off, some are on
    assert bool((features > 0).any())
    torch.testing.assert_close(net(x), features @ net.head.weight.T + net.head.bias)


def test_classifier_rejects_other_shapes():
    with pytest.raises(ValueError, match=r"x must be \(B, 1, 8, 8\), got \(2, 1, 16, 16\)"):
        Classifier()(torch.rand(2, 1, 16, 16))
