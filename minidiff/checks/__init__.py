"""Exercise checks: properties that a right answer has, tested on the checker's own oracle.

`check("ddpm-01", answer)` prints that all properties hold or raises `CheckFailed` with the one that does not, never
with the answer. A chapter's checkers are a module of this package; each is a function of the answer, registered by
`@checker("chapter-01")`, that states its properties with `expect`, `close` and `increasing`.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import math
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Answer = Callable[..., Any]
Checker = Callable[[Answer], None]

_CHECKERS: dict[str, Checker] = {}


class CheckFailed(AssertionError):
    """An answer lacks a property that the exercise asks for."""


def checker(identifier: str) -> Callable[[Checker], Checker]:
    """Register the decorated function as the checker of an exercise. Raises ValueError if there is one already."""

    def register(function: Checker) -> Checker:
        if identifier in _CHECKERS:
            raise ValueError(f"there is a checker for {identifier!r} already: {_CHECKERS[identifier].__qualname__}")
        _CHECKERS[identifier] = function
        return function

    return register


def known() -> list[str]:
    """The identifiers of all exercises that can be checked, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return sorted(_CHECKERS)


def check(identifier: str, answer: Answer) -> None:
    """Check the answer to an exercise, and print that it has passed.

    answer: the function that the exercise asks for. Raises CheckFailed naming the property that does not hold, or what
    the answer raised, and ValueError, with the exercises that there are, for an unknown identifier.
    """
    identifiers = known()
    if identifier not in identifiers:
        raise ValueError(f"no exercise is called {identifier!r}; there are: {', '.join(identifiers)}")
    if not callable(answer):
        raise CheckFailed(f"{identifier}: the answer must be a function, got {type(answer).__name__}")
    try:
        _CHECKERS[identifier](_reporting(answer))
    except CheckFailed as failure:
        raise CheckFailed(f"{identifier}: {failure}") from failure.__cause__
    print(f"{identifier}: all properties hold")


def _reporting(answer: Answer) -> Answer:
    """The answer, whose own exceptions become failed checks."""

    @functools.wraps(answer)
    def called(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        try:
            return answer(*args, **kwargs)
        except Exception as error:
            raise CheckFailed(f"the answer raised {type(error).__name__}: {error}") from error

    return called


def expect(holds: bool | Tensor, what: str) -> None:
    """Raise CheckFailed, naming the property, unless it holds."""
    if not bool(holds):
        raise CheckFailed(f"this property does not hold: {what}")


def number(value: Any, what: str) -> Tensor:  # noqa: ANN401
    """What the answer returned as a finite float64 tensor. Raises CheckFailed for anything else."""
    try:
        tensor = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckFailed(f"{what} must be a number or a tensor, got {type(value).__name__}") from error
    expect(tensor.isfinite().all(), f"{what} is finite")
    return tensor


def pair(value: Any, what: str) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """What the answer returned as two finite float64 tensors. Raises CheckFailed for anything else."""
    if not _holds(value, 2):
        raise CheckFailed(f"the answer must return {what}, two values, got {type(value).__name__}")
    return number(value[0], what), number(value[1], what)


def three(value: Any, what: str) -> list[Tensor]:  # noqa: ANN401
    """What the answer returned as three finite float64 tensors. Raises CheckFailed for anything else."""
    if not _holds(value, 3):
        raise CheckFailed(f"the answer must return {what}, three values, got {type(value).__name__}")
    return [number(v, what) for v in value]


def _holds(value: object, count: int) -> bool:
    """Whether it is a sequence, tensor or array of so many entries along its first axis."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0 and len(value) == count
    return isinstance(value, Sequence) and len(value) == count


def close(value: Any, oracle: Tensor | float, what: str, rtol: float = 1e-8, atol: float = 1e-10) -> None:  # noqa: ANN401
    """Raise CheckFailed, naming the property, unless the value is finite, of the oracle's shape, and equals it."""
    value, oracle = number(value, what), torch.as_tensor(oracle, dtype=torch.float64)
    if value.shape != oracle.shape:
        raise CheckFailed(f"{what}: the shape must be {tuple(oracle.shape)}, got {tuple(value.shape)}")
    expect(torch.allclose(value, oracle, rtol=rtol, atol=atol), what)


def increasing(values: Sequence[Any], what: str) -> None:
    """Raise CheckFailed, naming the property, unless the numbers strictly increase."""
    numbers = [float(number(value, what)) for value in values]
    expect(all(low < high for low, high in itertools.pairwise(numbers)), what)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A random number of a checker's oracle, log-uniform between low and high > 0."""
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    """Draws of a checker's oracle from N(0, 1), float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)
