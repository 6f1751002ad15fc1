"""A law of short strings given as a table: every conditional is exact, so it is the oracle of `discrete`.

Noise that acts on each token by itself is a matrix, kernel[k, v] = q(x_t^i = v | x_0^i = k); the posterior of x_0 given
x_t is then one sum over the table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.laws import strings
from minidiff.apps.discrete.tokens import DiscreteDenoiser, categorical, check_stochastic, check_tokens
from minidiff.noise import Generators


class Table:
    """The law p(x) of strings of L tokens below K, as a tensor (K, …, K) with L axes that sums to 1.

    Raises ValueError for axes of different lengths, for negative entries, NaN, or a sum that is not 1.
    """

    def __init__(self, probabilities: Tensor) -> None:
        check_stochastic("probabilities", probabilities.flatten())
        if len(set(probabilities.shape)) != 1:
            raise ValueError(f"probabilities must have L ≥ 1 axes of one length, got {tuple(probabilities.shape)}")
        self.probabilities = probabilities.double()
        self.vocabulary, self.length = probabilities.shape[0], probabilities.ndim

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of clean strings x (B, L); (B,)."""
        check_tokens("x", x, self.vocabulary)
        self._check_length(x)
        return self.probabilities[tuple(x.T)].log()

    def sample(self, n: int, generator: Generators = None) -> Tensor:
        """Draw n strings; (n, L). Raises ValueError for n < 1."""
        arguments.positive_integer("n", n)
        index = categorical(self.probabilities.flatten().expand(n, -1), generator)
        return strings(self.vocabulary, self.length)[index]

    def marginal(self, kernel: Tensor) -> Tensor:
        """The law of the noisy string, Σ_{x_0} p(x_0) Π_i kernel[x_0^i, ·]; (V, …, V)."""
        self._check_kernel(kernel)
        law = self.probabilities
        for _ in range(self.length):  # the first axis is noised and becomes the last: after L turns all are in place
            law = torch.tensordot(law, kernel.double(), ([0], [0]))
        return law

    def conditionals(self, x: Tensor, kernel: Tensor) -> Tensor:
        """log p(x_0^i = k | x_t = x) for kernel (K, V); (B, L) → (B, L, K). NaN where x has probability zero."""
        self._check_kernel(kernel)
        check_tokens("x", x, kernel.shape[1])
        self._check_length(x)
        table = strings(self.vocabulary, self.length)  # (K^L, L)
        log_kernel = kernel.double().log()
        log_joint = self.probabilities.flatten().log() + sum(
            log_kernel[table[:, i]].T[x[:, i]] for i in range(self.length)
        )  # (B, K^L)
        weight = log_joint.softmax(1)
        return torch.stack(
            [weight @ torch.nn.functional.one_hot(table[:, i], self.vocabulary).double() for i in range(self.length)], 1
        ).log()

    def denoiser(self, kernel: Callable[[Tensor], Tensor]) -> DiscreteDenoiser:
        """The exact D(x, t) for noise kernel(t) (K, V)."""
        return lambda x, t: self.conditionals(x, kernel(t))

    def masked(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """The exact D(x, t) for masks: x_0^i given the tokens that are not masked, whatever the time; (B, L, K)."""
        half = torch.full((self.vocabulary, 1), 0.5, dtype=torch.float64)
        return self.conditionals(x, torch.cat([torch.eye(self.vocabulary, dtype=torch.float64) / 2, half], 1))

    def _check_kernel(self, kernel: Tensor) -> None:
        check_stochastic("kernel", kernel)
        if kernel.ndim != 2 or len(kernel) != self.vocabulary:
            raise ValueError(f"kernel must have shape ({self.vocabulary}, V), got {tuple(kernel.shape)}")

    def _check_length(self, x: Tensor) -> None:
        if x.shape[1] != self.length:
            raise ValueError(f"x must have {self.length} tokens a row, got {x.shape[1]}")
