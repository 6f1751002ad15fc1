"""D3PM: a Markov chain of tokens, x_{n−1} → x_n by a transition matrix Q_n, and its reverse (Austin et al. 2021).

Matrices act on rows: Q_n[i, j] = q(x_n = j | x_{n−1} = i), so that the marginals are products Q̄_n = Q_1 ⋯ Q_n. The L
tokens of a string move independently. Index n = 0 is data, n = T is noise; a denoiser is called at t = n/T.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.tokens import DiscreteDenoiser, categorical, check_stochastic, check_tokens
from minidiff.apps.discrete.tokens import log_probabilities as clean
from minidiff.noise import Generators
from minidiff.samplers.state import State


def _checked(betas: Tensor, vocabulary: int) -> Tensor:
    arguments.finite("betas", betas)
    if betas.ndim != 1 or not len(betas):
        raise ValueError(f"betas must have shape (T,) with T ≥ 1, got {tuple(betas.shape)}")
    arguments.positive_integer("vocabulary", vocabulary, at_least=2)
    return betas.double()[:, None, None]


def uniform_steps(betas: Tensor, vocabulary: int) -> Tensor:
    """Q_n = (1 − β_n) I + β_n 11ᵀ/K: with probability β_n the token is drawn anew; betas (T,) in [0, 1] → (T, K, K).

    Raises ValueError for betas outside [0, 1] and K < 2. Source: Austin et al. 2021, appendix A.2.1.
    """
    beta = _checked(betas, vocabulary)
    arguments.unit_interval("betas", betas)
    return (1 - beta) * torch.eye(vocabulary, dtype=torch.float64) + beta / vocabulary


def absorbing_steps(betas: Tensor, vocabulary: int) -> Tensor:
    """Q_n = (1 − β_n) I + β_n 1 e_mᵀ, m = K: with probability β_n the token is masked, for good; → (T, K + 1, K + 1).

    `vocabulary` counts the K clean tokens; the mask is the token K. Raises ValueError for betas outside [0, 1] and
    K < 2. Source: Austin et al. 2021, appendix A.2.2.
    """
    beta = _checked(betas, vocabulary)
    arguments.unit_interval("betas", betas)
    to_mask = torch.zeros(vocabulary + 1, dtype=torch.float64)
    to_mask[-1] = 1
    return (1 - beta) * torch.eye(vocabulary + 1, dtype=torch.float64) + beta * to_mask


def discretised_gaussian_steps(betas: Tensor, vocabulary: int) -> Tensor:
    """Ordinal tokens: Q_n[i, j] ∝ exp(−4 (i − j)²/((K − 1)² β_n)) off the diagonal, the rest stays; → (T, K, K).

    The normaliser is the sum of the exponential over all differences −(K − 1) … K − 1, so Q_n is symmetric and its
    stationary law uniform. betas (T,) > 0. Raises ValueError for betas ≤ 0 and K < 2.
    Source: Austin et al. 2021, appendix A.2.3.
    """
    beta = _checked(betas, vocabulary)
    if not bool((betas > 0).all()):
        raise ValueError(f"betas must be positive, got {float(betas.min())}")
    place = torch.arange(1 - vocabulary, vocabulary, dtype=torch.float64)
    scale = (vocabulary - 1) ** 2 * beta
    total = (-4 * place.square() / scale).exp().sum(-1, keepdim=True)
    grey = torch.arange(vocabulary, dtype=torch.float64)
    steps = (-4 * (grey[:, None] - grey).square() / scale).exp() / total
    steps.diagonal(dim1=1, dim2=2).zero_()
    return steps + torch.diag_embed(1 - steps.sum(-1))


class Chain:
    """The chain with transition matrices steps (T, V, V), in float64; V counts every token, a mask included.

    cumulative (T + 1, V, V) holds Q̄_0 = I, …, Q̄_T. Raises ValueError for matrices that are not square and stochastic.
    """

    def __init__(self, steps: Tensor) -> None:
        check_stochastic("steps", steps)
        if steps.ndim != 3 or steps.shape[1] != steps.shape[2]:
            raise ValueError(f"steps must have shape (T, V, V), got {tuple(steps.shape)}")
        self.steps = steps.double()
        self.length, self.vocabulary = len(steps), steps.shape[1]
        eye = torch.eye(self.vocabulary, dtype=torch.float64, device=steps.device)
        self.cumulative = torch.stack(list(itertools.accumulate(self.steps, torch.matmul, initial=eye)))

    def between(self, s: int, n: int) -> Tensor:
        """Q_{s+1} ⋯ Q_n, the law of x_n given x_s; (V, V). Raises ValueError unless 0 ≤ s < n ≤ T."""
        self._check_indices(s, n)
        product = self.steps[s]
        for step in self.steps[s + 1 : n]:
            product = product @ step
        return product

    def _check_indices(self, s: int, n: int) -> None:
        arguments.positive_integer("s", s, at_least=0)
        arguments.positive_integer("n", n)
        if not s < n <= self.length:
            raise ValueError(f"s and n must satisfy 0 ≤ s < n ≤ {self.length}, got s = {s}, n = {n}")

    def marginal(self, x0: Tensor, n: int) -> Tensor:
        """q(x_n^i = · | x_0) = Q̄_n[x_0^i]; (B, L) → (B, L, V).

        Raises TypeError or ValueError for tokens outside the vocabulary or an n that is none of 0 … T.
        """
        check_tokens("x0", x0, self.vocabulary)
        arguments.positive_integer("n", n, at_least=0)
        if n > self.length:
            raise ValueError(f"n must lie in 0 … {self.length}, got {n}")
        return self.cumulative[n].to(x0.device)[x0]

    def noise(self, x0: Tensor, n: int, generator: Generators = None) -> Tensor:
        """Draw x_n ~ q(x_n | x_0); (B, L)."""
        return categorical(self.marginal(x0, n), generator)

    def posterior(self, x_n: Tensor, x0: Tensor, s: int, n: int) -> Tensor:
        """q(x_s^i = · | x_n, x_0) ∝ Q̄_s[x_0, ·] Q_{s→n}[·, x_n]; (B, L, V).

        Zero everywhere at a position where x_n cannot come from x_0. Raises as `marginal` and `between` do.
        Source: Austin et al. 2021, eq. 3, there for s = n − 1.
        """
        check_tokens("x_n", x_n, self.vocabulary)
        arguments.same_shape("x_n", x_n, "x0", x0)
        joint = self.marginal(x0, s) * self.between(s, n).to(x_n.device).T[x_n]
        return joint / joint.sum(-1, keepdim=True).clamp_min(torch.finfo(joint.dtype).tiny)

    def reverse(self, log_p: Tensor, x_n: Tensor, s: int, n: int) -> Tensor:
        """p(x_s^i | x_n) = Σ_k p(x_0^i = k | x_n) q(x_s^i | x_n^i, x_0^i = k): the posterior, averaged over D's belief.

        log_p (B, L, K) with K ≤ V, the answer of a denoiser that predicts x_0 from all of x_n; it is exact position by
        position when D is. Beliefs in an x_0 that cannot lead to x_n are dropped. Returns (B, L, V). Raises ValueError
        where no belief is left, and as `between` does.
        """
        self._check_answer(log_p, x_n, s, n)
        likelihood = self.cumulative[n].to(x_n.device).T[x_n][..., : log_p.shape[-1]]  # q(x_n^i | x_0^i = k)
        return self._combined(torch.where(likelihood > 0, log_p.exp() / likelihood, 0.0), x_n, s, n)

    def reverse_published(self, log_p: Tensor, x_n: Tensor, s: int, n: int) -> Tensor:
        """p(x_s^i | x_n) ∝ Σ_k q(x_s^i, x_n^i | x_0^i = k) p̃(k): D3PM's own combination; (B, L, V).

        It uses x_n^i once more than `reverse`, by the factor q(x_n^i | k), so it is exact for another p̃: the law of
        x_0^i given the *other* noisy tokens. Where q(x_n^i | k) is the same for every possible k, as with masks, the
        two agree. Raises as `reverse` does. Source: Austin et al. 2021, eq. 4.
        """
        self._check_answer(log_p, x_n, s, n)
        return self._combined(log_p.exp(), x_n, s, n)

    def _check_answer(self, log_p: Tensor, x_n: Tensor, s: int, n: int) -> None:
        self._check_indices(s, n)
        check_tokens("x_n", x_n, self.vocabulary)
        if log_p.ndim != 3 or log_p.shape[:2] != x_n.shape or log_p.shape[2] > self.vocabulary:
            raise ValueError(
                f"log_p must be (B, L, K) with K ≤ {self.vocabulary} for x_n {tuple(x_n.shape)}, "
                f"got {tuple(log_p.shape)}"
            )

    def _combined(self, weight: Tensor, x_n: Tensor, s: int, n: int) -> Tensor:
        """∝ Σ_k weight_k Q̄_s[k, ·] Q_{s→n}[·, x_n]."""
        into = self.between(s, n).to(x_n.device).T[x_n]
        joint = weight.double() @ self.cumulative[s, : weight.shape[-1]].to(x_n.device) * into
        total = joint.sum(-1, keepdim=True)
        if not bool((torch.isfinite(total) & (total > 0)).all()):
            raise ValueError("log_p must be without NaN and leave, at every position, an x_0 that can lead to x_n")
        return joint / total

    def step_kl(self, D: DiscreteDenoiser, x0: Tensor, x_n: Tensor, n: int, vocabulary: int) -> Tensor:
        """KL(q(x_{n−1} | x_n, x_0) ‖ p(x_{n−1} | x_n)) in nats, summed over the string; (B,).

        At n = 1 the posterior is x_0 itself, so this is −log p(x_0 | x_1). D answers over the K = `vocabulary` clean
        tokens. Raises ValueError for an x_n that cannot come from x_0. Source: Austin et al. 2021, section 2.
        """
        check_tokens("x0", x0, vocabulary)
        q = self.posterior(x_n, x0, n - 1, n)
        if not bool((q.sum(-1) > 0).all()):
            raise ValueError("x_n must be able to come from x0, got a token that it cannot turn into")
        p = self.reverse(clean(D, x_n, self.time(n), vocabulary), x_n, n - 1, n)
        return (torch.xlogy(q, q) - torch.xlogy(q, p)).sum((1, 2))

    def prior_kl(self, x0: Tensor, prior: Tensor) -> Tensor:
        """KL(q(x_T | x_0) ‖ prior), the law `prior` (V,) of each noise token; (B,). Raises unless it is a law."""
        check_stochastic("prior", prior)
        if prior.shape != (self.vocabulary,):
            raise ValueError(f"prior must have shape ({self.vocabulary},), got {tuple(prior.shape)}")
        q = self.marginal(x0, self.length)
        return (torch.xlogy(q, q) - torch.xlogy(q, prior.double().to(q.device))).sum((1, 2))

    def bound(
        self, D: DiscreteDenoiser, x0: Tensor, prior: Tensor, vocabulary: int, generator: Generators = None
    ) -> Tensor:
        """One draw of the variational bound: prior_kl + Σ_n step_kl at x_n ~ q(x_n | x_0); (B,) nats.

        Its mean is −log p(x_0) or more, p being the law of what `sample` returns from the prior.
        """
        terms = [self.step_kl(D, x0, self.noise(x0, n, generator), n, vocabulary) for n in range(1, self.length + 1)]
        return self.prior_kl(x0, prior) + torch.stack(terms).sum(0)

    def time(self, n: int) -> Tensor:
        """t = n/T, the time at which a denoiser is called; 0-d float64."""
        return torch.tensor(n / self.length, dtype=torch.float64)

    def sample(
        self,
        D: DiscreteDenoiser,
        x: Tensor,
        vocabulary: int,
        *,
        indices: Sequence[int] | None = None,
        generator: Generators = None,
    ) -> Iterator[State]:
        """Walk from x = x_T (B, L) to x_0: at each step draw x_s ~ p(x_s | x_n), every position by itself.

        indices: where to stop, strictly falling from T (the place of x) to 0; by default every one. State.x0 holds
        log p(x_0 | x_n), (B, L, K). Raises ValueError for other indices or tokens outside the chain's vocabulary.
        """
        check_tokens("x", x, self.vocabulary)
        stops = list(range(self.length, -1, -1)) if indices is None else list(indices)
        for stop in stops:
            arguments.positive_integer("indices", stop, at_least=0)
        falling = all(later < earlier for earlier, later in itertools.pairwise(stops))
        if len(stops) < 2 or stops[0] != self.length or stops[-1] != 0 or not falling:
            raise ValueError(f"indices must fall from {self.length} to 0, got {stops[:8]}")
        return self._walk(D, x, vocabulary, stops, generator)

    def _walk(
        self, D: DiscreteDenoiser, x: Tensor, vocabulary: int, stops: list[int], generator: Generators
    ) -> Iterator[State]:
        yield State(self.time(stops[0]), x, None)
        for n, s in itertools.pairwise(stops):
            log_p = clean(D, x, self.time(n), vocabulary)
            x = categorical(self.reverse(log_p, x, s, n), generator)
            yield State(self.time(s), x, log_p)
