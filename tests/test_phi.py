"""φ-functions and the exact weights made of them, against integrals."""

import math

import numpy as np
import pytest
import torch

from minidiff.samplers.exponential import integral_weights
from minidiff.samplers.phi import SMALL, phi, phi_weights

NODES, WEIGHTS = (v.tolist() for v in np.polynomial.legendre.leggauss(40))


def integral(f, low, high):
    half, middle = (high - low) / 2, (high + low) / 2
    return half * math.fsum(w * f(middle + half * n) for n, w in zip(NODES, WEIGHTS, strict=True))


@pytest.mark.parametrize("z", [-30.0, -SMALL - 1e-9, -SMALL, -1.0, -1e-3, 0.0, 1e-12, 0.7, SMALL, SMALL + 1e-9, 8.0])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_phi_is_its_integral(k, z):
    exact = sum(
        integral(lambda u: math.exp((1 - u) * z) * u ** (k - 1) / math.factorial(k - 1), n / 8, (n + 1) / 8)
        for n in range(8)
    )
    assert phi(k, z) == pytest.approx(exact, rel=1e-12)


def test_phi_0_is_the_exponential_and_phi_at_0_is_a_factorial():
    assert phi(0, -1.3) == math.exp(-1.3)
    assert [phi(k, 0.0) for k in range(6)] == [1 / math.factorial(k) for k in range(6)]


@pytest.mark.parametrize("quantity", ["x0", "eps"])
@pytest.mark.parametrize("h", [1e-4, 0.05, 0.8, 4.0])
@pytest.mark.parametrize("places", [[0.0], [0.0, -1.0], [0.0, -0.7, -2.1], [0.0, -1.2, -2.0, -3.5], [1.0, 0.0, -0.9]])
def test_weights_are_those_of_the_quadrature(places, h, quantity):
    """Solved from moments here, integrated there; the unit is α_t or σ_t = α_t e^{−λ_t}."""
    lam_s = -0.4
    unit = 1.0 if quantity == "x0" else math.exp(-lam_s - h)
    exact = integral_weights(lam_s, lam_s + h, [lam_s + c * h for c in places], quantity=quantity)
    ours = [unit * w for w in phi_weights(h, places, quantity)]
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(exact), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: phi(-1, 1.0), "k must be"),
        (lambda: phi(1.5, 1.0), "k must be"),
        (lambda: phi(1, math.nan), "z must be"),
        (lambda: phi_weights(0.0, [0.0]), "h must be"),
        (lambda: phi_weights(1.0, []), "places must be one or more"),
        (lambda: phi_weights(1.0, [0.0, 0.0]), "different numbers"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
