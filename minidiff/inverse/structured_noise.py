"""SAM-DiffSR: forward noise whose mean differs from region to region, so that the network learns where objects are.

Wang et al. 2024 add a picture E to the noise of every step, one number a region, and leave the sampler as it is. The
paper and the authors' released code add different amounts of it; both are here by name, as factors φ_k in
x_k = √ᾱ_k x_0 + √(1 − ᾱ_k) ε + φ_k E. In both the network is asked for ε′ = ε + φ_k/√(1 − ᾱ_k) E, which makes
x_k = √ᾱ_k x_0 + √(1 − ᾱ_k) ε′: exactly a coupling of the noise with the image, since E is a function of x_0. So x̂_0
follows from ε̂′ as ever, and a denoiser trained on it is `coupled`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff import arguments


def paper_factors(betas: Tensor) -> Tensor:
    """φ_k = Σ_{i≤k} √(ᾱ_k β_i/ᾱ_i), from steps x_k = √(1 − β_k) x_{k−1} + √β_k (ε_k + E); (T,) float64.

    By recursion, φ_k = √(1 − β_k) φ_{k−1} + √β_k: the formula without its division by ᾱ. Raises ValueError unless the
    betas (T,) lie in (0, 1].
    """
    phi, total = [], 0.0
    for beta in _checked(betas).tolist():
        total = (1 - beta) ** 0.5 * total + beta**0.5
        phi.append(total)
    return torch.tensor(phi, dtype=torch.float64)


def released_factors(betas: Tensor) -> Tensor:
    """φ_k = (1 − ᾱ_k) β_k: the released code adds c_k E to ε with c_k = √(1 − ᾱ_k) β_k; (T,) float64.

    No chain of steps with the same E in each has these factors, and at small β they are far below the paper's. Raises
    ValueError unless the betas (T,) lie in (0, 1].
    """
    betas = _checked(betas)
    return -torch.expm1(torch.log1p(-betas).cumsum(0)) * betas


def structured_noise(
    x0: Tensor, k: Tensor, eps: Tensor, pattern: Tensor, betas: Tensor, factors: Tensor
) -> tuple[Tensor, Tensor]:
    """(x_k, ε′): the noised image and the network's target ε′ = ε + φ_k/√(1 − ᾱ_k) E; both the shape of x0.

    x0, eps, pattern (E): (B, *D); k: (B,) int64 in 1…T; betas, factors: (T,), the latter from `paper_factors` or
    `released_factors`. E = 0 is DDPM. Raises ValueError for shapes and k that do not fit.
    """
    arguments.floating("x0", x0)
    arguments.same_shape("x0", x0, "eps", eps)
    arguments.same_shape("x0", x0, "pattern", pattern)
    betas = _checked(betas)
    arguments.same_shape("betas", betas, "factors", factors)
    arguments.finite("factors", factors)
    if k.dtype != torch.int64 or k.shape != x0.shape[:1] or not bool(((k >= 1) & (k <= len(betas))).all()):
        raise ValueError(f"k must be int64 (B,) in 1…{len(betas)}, got {k.dtype} {k.tolist()}")
    log_signal = torch.log1p(-betas).cumsum(0)[k - 1]
    sigma = (-torch.expm1(log_signal)).sqrt()
    target = eps + arguments.along(factors[k - 1] / sigma, x0) * pattern
    return arguments.along((log_signal / 2).exp(), x0) * x0 + arguments.along(sigma, x0) * target, target


def rotary_code(height: int, width: int) -> Tensor:
    """A field of ones turned by rotary position codes down its rows; (height, width) float64 in [−√2, √2].

    Row p, columns 2j and 2j + 1: cos pθ_j − sin pθ_j and cos pθ_j + sin pθ_j with θ_j = 10000^{−2j/width} (Su et al.
    2021), which tells regions apart by their place. Raises ValueError unless width is even.
    """
    arguments.positive_integer("height", height)
    arguments.positive_integer("width", width, at_least=2)
    if width % 2:
        raise ValueError(f"width must be even, for pairs of columns to turn together, got {width}")
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(height, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos() - angle.sin(), angle.cos() + angle.sin()], -1).flatten(1)


def region_pattern(regions: Tensor, code: Tensor) -> Tensor:
    """E = Σ_m 1_m e_m: each region filled with the mean of the code over it; (B, H, W) in the dtype of the code.

    regions: (B, H, W) int64 labels ≥ 0, one region each; code: (H, W), such as `rotary_code`. Raises ValueError for
    other shapes, dtypes and negative labels. (The released code divides by H·W in the place of the region's size.)
    """
    arguments.finite("code", code)
    fits = code.ndim == 2 and regions.ndim == 3 and regions.shape[1:] == code.shape
    if not fits or regions.dtype != torch.int64 or bool((regions < 0).any()):
        raise ValueError(
            f"regions must be int64 labels ≥ 0, (B, H, W) for a code (H, W), "
            f"got {regions.dtype} {tuple(regions.shape)} and {tuple(code.shape)}"
        )
    flat = regions.flatten(1)
    values = code.flatten().expand(flat.shape)
    empty = code.new_zeros(len(flat), int(flat.max()) + 1)
    sums, sizes = empty.scatter_add(1, flat, values), empty.scatter_add(1, flat, torch.ones_like(values))
    return (sums / sizes.clamp(min=1)).gather(1, flat).reshape(regions.shape)


def _checked(betas: Tensor) -> Tensor:
    arguments.finite("betas", betas)
    if betas.ndim != 1 or not bool(((betas > 0) & (betas <= 1)).all()):
        raise ValueError(f"betas must be (T,) in (0, 1], got shape {tuple(betas.shape)}")
    return betas.double()
