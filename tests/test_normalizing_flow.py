"""The affine-coupling flow: its determinant against the whole Jacobian, its inverse, and its density on a grid."""

import math

import pytest
import torch

from minidiff import data, likelihood, train
from minidiff.families.flow import AffineCoupling, Flow, Mixing

F64 = torch.float64


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rough(shape, linear=False, seed=0, layers=4):
    """A flow whose every weight is random, in double precision."""
    with train.seeded(seed):
        flow = Flow(shape, layers=layers, width=16, linear=linear).double()
        with torch.no_grad():
            for p in flow.parameters():
                if p.requires_grad:
                    p.add_(0.15 * torch.randn(p.shape, dtype=F64))
    return flow


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("shape", [(2,), (5,), (1, 3, 4)])
def test_the_log_determinant_is_that_of_the_jacobian(shape, linear):
    flow = rough(shape, linear)
    x = torch.randn(6, *shape, generator=gen(1), dtype=F64)
    _, log_det = flow(x)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], x[row])
        truth = torch.linalg.slogdet(jacobian.reshape(flow.dimensions, -1)).logabsdet
        torch.testing.assert_close(log_det[row], truth, rtol=1e-10, atol=1e-10)
    assert float(log_det.detach().std()) > 0.05  # it depends on x


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("shape", [(2,), (5,), (1, 3, 4)])
def test_the_inverse(shape, linear):
    flow = rough(shape, linear, seed=1)
    x = torch.randn(50, *shape, generator=gen(2), dtype=F64)
    z, _ = flow(x)
    assert bool((z.reshape(x.shape) != x).any())
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("linear", [False, True])
def test_the_density_integrates_to_one(linear):
    """Midpoint rule in z-space would be circular: the grid is in x, wide enough for all but 1e-4 of the mass."""
    flow = rough((2,), linear, seed=2, layers=2)
    with torch.no_grad():
        reach = float(flow.sample(4000, gen(0)).abs().max()) * 1.5
        edges = torch.linspace(-reach, reach, 1201, dtype=F64)
        middle = (edges[1:] + edges[:-1]) / 2
        x = torch.cartesian_prod(middle, middle)
        mass = float(torch.cat([flow.log_prob(part) for part in x.split(100_000)]).exp().sum())
    assert mass * float(edges[1] - edges[0]) ** 2 == pytest.approx(1, abs=2e-3)


def test_samples_have_the_density():
    """The share of 20,000 samples in half planes against the integral of the density, within 5 standard errors."""
    flow = rough((2,), seed=3, layers=2)
    with torch.no_grad():
        made = flow.sample(20_000, gen(1))
        edges = torch.linspace(-1, 1, 1001, dtype=F64) * float(made.abs().max()) * 1.5
        middle = (edges[1:] + edges[:-1]) / 2
        x = torch.cartesian_prod(middle, middle)
        weight = flow.log_prob(x).exp() * float(edges[1] - edges[0]) ** 2
    for axis in range(2):
        for cut in made[:, axis].quantile(torch.tensor([0.2, 0.5, 0.9], dtype=F64)):
            p = float(weight[x[:, axis] < cut].sum())
            share = float((flow.sample(20_000, gen(7))[:, axis] < cut).double().mean())
            assert abs(share - p) < 5 * math.sqrt(2 * p * (1 - p) / 20_000) + 2e-3


def test_a_new_flow_is_a_rotation_of_the_normal():
    with train.seeded(0):
        flow = Flow((6,), linear=True).double()
    x = torch.randn(20, 6, generator=gen(), dtype=F64)
    torch.testing.assert_close(flow(x)[0].square().sum(1), x.square().sum(1), rtol=1e-5, atol=1e-5)
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), truth, rtol=1e-5, atol=1e-5)


def test_every_coordinate_moves():
    """d = 3: two couplings in a row reach all coordinates."""
    for seed in range(8):
        with train.seeded(seed):
            flow = Flow((3,), layers=2, width=8).double()
            for layer in flow.layers:
                if isinstance(layer, AffineCoupling):
                    torch.nn.init.constant_(layer.net[-1].bias, 0.7)
        x = torch.randn(4, 3, generator=gen(), dtype=F64)
        jacobian = torch.autograd.functional.jacobian(lambda v, flow=flow: flow(v[None])[0][0], x[0])
        scale = math.exp(2 * math.tanh(0.35))
        torch.testing.assert_close(jacobian, scale * torch.eye(3, dtype=F64))


def test_standardise():
    """The first step takes away the mean and the standard deviation of each coordinate."""
    x = 3 + torch.randn(500, 2, generator=gen(), dtype=F64) * torch.tensor([0.2, 5.0], dtype=F64)
    flow = rough((2,))
    flow.standardise(x)
    first = (x - flow.shift.detach()) * (-flow.log_scale.detach()).exp()
    torch.testing.assert_close(first.mean(0), torch.zeros(2, dtype=F64), atol=1e-9, rtol=0)
    torch.testing.assert_close(first.std(0), torch.ones(2, dtype=F64))
    with pytest.raises(ValueError, match="every coordinate must vary"):
        flow.standardise(torch.ones(5, 2, dtype=F64))


def test_gradients_of_the_determinant():
    coupling, mixing = AffineCoupling(torch.tensor([True, False, True, False]), 8).double(), Mixing(4).double()
    x = torch.randn(3, 4, generator=gen(), dtype=F64)
    (mixing(x)[1].sum() + coupling(x)[1].sum()).backward()
    torch.testing.assert_close(mixing.weight.grad, 3 * torch.linalg.inv(mixing.weight.detach()).mT)
    assert coupling.net[-1].bias.grad[:2].tolist() == [3, 3]  # Σ s, whose slope at zero is 1


def test_it_learns_two_moons():
    """200 steps bring the density from the Gaussian's 2.8 nats to within 0.9 of 2.0; the moons' own noise has 0.4."""
    x = data.two_moons(4000, seed=0)
    with train.seeded(0):
        flow = Flow((2,), layers=6, width=32)
    flow.standardise(x)
    before = -flow.log_prob(x).mean().item()
    stream = data.batches(x, batch_size=256, seed=0)
    for _ in train.fit(lambda b: -flow.log_prob(b), flow.parameters(), stream, steps=200, lr=5e-3):
        pass
    after = -flow.log_prob(data.two_moons(4000, seed=1)).mean().item()
    assert before > 2.6 and after < before - 0.7


def test_quantise_undoes_dequantise():
    x = torch.randint(17, (40, 6), generator=gen()).float() / 8 - 1
    torch.testing.assert_close(likelihood.quantise(likelihood.dequantise(x, 17, gen(1)), 17), x)
    assert likelihood.quantise(torch.tensor([-3.0, 9.0, 0.4]), 2).tolist() == [-1, 1, 1]


def test_one_generator_a_sample():
    flow = rough((2,))
    batch = flow.sample(3, [gen(5), gen(6), gen(7)])
    torch.testing.assert_close(batch[1:2], flow.sample(1, [gen(6)]))
    assert torch.equal(batch, flow.sample(3, [gen(5), gen(6), gen(7)]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Flow((1,)), ValueError, "the number of values of x must be at least 2"),
        (lambda: Flow((2,), layers=0), ValueError, "layers must be at least 1"),
        (lambda: Flow((2,), width=0), ValueError, "width must be at least 1"),
        (lambda: Flow((2,))(torch.zeros(3, 4)), ValueError, r"x must have shape \(B, 2\), got \(3, 4\)"),
        (lambda: Flow((2,)).log_prob(torch.zeros(3, 2).long()), TypeError, "floating-point"),
        (lambda: Flow((2,)).inverse(torch.zeros(2, 3)), ValueError, r"z must have shape \(B, 2\)"),
        (lambda: Flow((2,)).sample(0), ValueError, "n must be at least 1"),
        (lambda: likelihood.quantise(torch.zeros(2), 1), ValueError, "levels must be at least 2"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
