"""What every metric starts from: two checked sets of feature vectors, and a number with its standard
error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from minidiff.arguments import finite


class Estimate(NamedTuple):
    """An estimate and its standard error; prints as `value ± standard error`."""

    value: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ± {self.standard_error:.2g}"


def check_features(name: str, features: Tensor, at_least: int = 1) -> None:
    """Raise unless features is a finite floating-point matrix (n, d) with n ≥ at_least and d ≥ 1."""
    finite(name, features)
    if features.ndim != 2 or features.shape[0] < at_least or features.shape[1] < 1:
        raise ValueError(
            f"{name} must be a matrix (n, d) with n of at least {at_least}, got shape {tuple(features.shape)}"
        )


def check_pair(name_a: str, a: Tensor, name_b: str, b: Tensor, at_least: int = 1) -> None:
    """Raise unless both are feature matrices with the same number of columns."""
    check_features(name_a, a, at_least)
    check_features(name_b, b, at_least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{name_a} and {name_b} must have the same number of columns, got {a.shape[1]} and {b.shape[1]}"
        )


def shuffled(features: Tensor, generator: torch.Generator) -> Tensor:
    """The rows in an order drawn from the generator: sets often come sorted by class."""
    return features[torch.randperm(len(features), generator=generator).to(features.device)]
