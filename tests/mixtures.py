"""Mixtures of Gaussians in the plane, whose denoiser is exact: two or three components, unlike in place and weight."""

import torch

from minidiff.analytic import GaussianMixture

MEANS = torch.tensor([[1.0, 0.0], [-0.6, 0.8], [-0.4, -1.1]], dtype=torch.float64)


def two(process, std=0.3):
    return GaussianMixture(process, torch.tensor([0.5, 0.5], dtype=torch.float64), MEANS[:2], stds=std)


def three(process, std=0.3):
    return GaussianMixture(process, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), MEANS, stds=std)
