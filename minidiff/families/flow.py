"""A normalizing flow of affine couplings (RealNVP, Dinh et al. 2017), with Glow's linear mixing as an option.

An invertible z = f(x) with a triangular Jacobian turns z ~ N(0, I) into a density by the change of variables,

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|,

exactly, and a sample is one pass back. Each layer must have an inverse and a determinant in closed form. A diffusion
model's probability-flow ODE (`minidiff.likelihood`) is the same formula with ∇·u integrated, and any network for u.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from minidiff import arguments
from minidiff.nets.perceptron import perceptron
from minidiff.noise import Generators, standard_normal

BOUND = 2.0  # of |s|: a layer scales by a factor between e^−2 and e^2


class AffineCoupling(nn.Module):
    """y_a = x_a, y_b = x_b ⊙ exp s(x_a) + m(x_a): the coordinates `kept` (a) move the others (b).

    Its Jacobian is triangular, log |det| = Σ s(x_a); s is bounded by 2 tanh. It starts as the identity.
    kept: (d,) bool.
    """

    def __init__(self, kept: Tensor, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("kept", kept)
        self.net = perceptron(int(kept.sum()), 2 * int((~kept).sum()), width, dropout)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """s(x_a) and m(x_a), each (B, number of moved)."""
        raw, shift = self.net(x[:, self.kept]).chunk(2, 1)
        return BOUND * torch.tanh(raw / BOUND), shift

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, d) → y (B, d) and log |det ∂y/∂x| (B,)."""
        s, m = self.scale_and_shift(x)
        y = x.clone()
        y[:, ~self.kept] = x[:, ~self.kept] * s.exp() + m
        return y, s.sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """y (B, d) → x (B, d): x_b = (y_b − m(y_a)) ⊙ exp −s(y_a), for y_a = x_a is known."""
        s, m = self.scale_and_shift(y)
        x = y.clone()
        x[:, ~self.kept] = (y[:, ~self.kept] - m) * (-s).exp()
        return x


class Mixing(nn.Module):
    """y = x Wᵀ, log |det W|: Glow's 1×1 convolution, with all d coordinates for channels (Kingma & Dhariwal 2018)."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(dimensions, dimensions)).Q)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, d) → y (B, d) and log |det W|, the same for each row, (B,)."""
        return x @ self.weight.mT, torch.linalg.slogdet(self.weight).logabsdet.expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        """y (B, d) → x (B, d) = y W⁻ᵀ."""
        return torch.linalg.solve(self.weight.mT, y, left=False)


class Flow(nn.Module):
    """f: x (B, *shape) → z (B, d), `layers` couplings; d = the number of values of x.

    Couplings come in pairs: a random half of the coordinates moves the rest, then the rest moves it. linear: a learned
    matrix before each, which starts as a random rotation. width, dropout: of the couplings' networks. A first step,
    (x − b) ⊙ exp −s for each coordinate, is set from data by `standardise`. Raises ValueError for d < 2, sizes < 1.
    """

    def __init__(
        self,
        shape: tuple[int, ...] = (1, 8, 8),
        layers: int = 8,
        width: int = 128,
        linear: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        arguments.positive_integer("layers", layers)
        self.shape = tuple(shape)
        self.dimensions = d = math.prod(self.shape)
        arguments.positive_integer("the number of values of x", d, 2)
        self.shift, self.log_scale = nn.Parameter(torch.zeros(d)), nn.Parameter(torch.zeros(d))
        chain: list[nn.Module] = []
        for layer in range(layers):
            if layer % 2 == 0:
                half = torch.randperm(d) < d // 2
            chain += [Mixing(d)] * linear + [AffineCoupling(~half if layer % 2 else half, width, dropout)]
        self.layers = nn.ModuleList(chain)

    @torch.no_grad()
    def standardise(self, x: Tensor) -> None:
        """Set b and s of the first step, (x − b) ⊙ exp −s, from the mean and deviation of the rows of x (N, *shape).

        Raises ValueError for a coordinate that does not vary: `likelihood.dequantise` grey levels first.
        """
        rows = self._rows(x)
        std = rows.std(0)
        if not bool((std > 0).all()):  # NaN for a single row
            raise ValueError(f"every coordinate must vary over the data, got standard deviations from {std.min()}")
        self.log_scale.copy_(std.log())
        self.shift.copy_(rows.mean(0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z = f(x), (B, d), and log |det ∂f/∂x|, (B,), the sum over the layers."""
        z = (self._rows(x) - self.shift) * (-self.log_scale).exp()
        log_det = -self.log_scale.sum().expand(len(z))
        for layer in self.layers:
            z, change = layer(z)
            log_det = log_det + change
        return z, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """x = f⁻¹(z), (B, *shape); z (B, d)."""
        if z.ndim != 2 or z.shape[1] != self.dimensions:
            raise ValueError(f"z must have shape (B, {self.dimensions}), got {tuple(z.shape)}")
        for layer in reversed(self.layers):
            z = layer.inverse(z)
        return (z * self.log_scale.exp() + self.shift).reshape(-1, *self.shape)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|; (B,) nats. Its negative is the loss."""
        z, log_det = self(x)
        return log_det - z.square().sum(1) / 2 - self.dimensions / 2 * math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, n: int, generator: Generators = None) -> Tensor:
        """n samples f⁻¹(z) with z ~ N(0, I), (n, *shape): one pass."""
        arguments.positive_integer("n", n)
        z = standard_normal((n, self.dimensions), generator, self.shift.dtype, self.shift.device)
        return self.inverse(z)

    def _rows(self, x: Tensor) -> Tensor:
        arguments.floating("x", x)
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        return x.flatten(1)
