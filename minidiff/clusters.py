"""Soft and hard k-means: fitting the centres of an isotropic Gaussian mixture by expectation–maximisation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from minidiff import arguments


def shares(points: Tensor, centres: Tensor, r: float) -> Tensor:
    """p(k | x_i) ∝ exp(−|x_i − m_k|² / 2r²) for points (N, D) and equally likely centres (K, D); (N, K).

    At r = 0 the nearest centre has the share 1, and equally near ones divide it. Raises ValueError for shapes that do
    not fit and r < 0. Computed in float64, returned in the dtype of the points.
    """
    variance = max(_checked(r) ** 2, 1e-300)
    return (-_gaps(points, centres) / variance).softmax(1).to(points.dtype)


def em_step(points: Tensor, centres: Tensor, r: float) -> Tensor:
    """One step of expectation–maximisation: m_k ← Σ_i p(k | x_i) x_i / Σ_i p(k | x_i); (K, D).

    At r = 0 it is one step of Lloyd's k-means. A centre that has no points stays where it is.
    """
    share = shares(points, centres, r)
    total = share.sum(0)[:, None]
    means = share.mT @ points / total.where(total > 0, 1.0)
    return torch.where(total > 0, means, centres)


def free_energy(points: Tensor, centres: Tensor, r: float) -> Tensor:
    """Σ_i −r² log (1/K) Σ_k exp(−|x_i − m_k|² / 2r²); at r = 0 the k-means objective ½ Σ_i min_k |x_i − m_k|²; ().

    Up to a constant it is −r² times the log-likelihood of the mixture, so `em_step` never raises it.
    """
    gaps, variance = _gaps(points, centres), max(_checked(r) ** 2, 1e-300)
    nearest = (points[:, None] - centres).double().square().sum(2).amin(1) / 2
    energies = nearest - r**2 * ((-gaps / variance).logsumexp(1) - math.log(len(centres)))
    return energies.sum().to(points.dtype)


def _checked(r: float) -> float:
    arguments.real("r", r, 0)
    return r


def _gaps(points: Tensor, centres: Tensor) -> Tensor:
    """½|x_i − m_k|² less the least of the row; (N, K)."""
    arguments.finite("points", points)
    arguments.finite("centres", centres)
    if points.ndim != 2 or centres.ndim != 2 or points.shape[1] != centres.shape[1] or not len(centres):
        raise ValueError(
            f"points must be (N, D) and centres (K, D), got {tuple(points.shape)} and {tuple(centres.shape)}"
        )
    points, centres = points.double(), centres.double()
    half = centres.square().sum(1) / 2 - points @ centres.mT
    return half - half.amin(1, keepdim=True)
