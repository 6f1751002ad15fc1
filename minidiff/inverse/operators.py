"""Linear measurements y = A x_0 + s n: each operator with its adjoint, its pseudo-inverse and functions of A Aᵀ.

One primitive serves them all. With the singular value decomposition A = U diag(ς) Vᵀ, `of_gram` applies
U f(ς²) Uᵀ to measurements; the pseudo-inverse is Aᵀ f(A Aᵀ) with f(e) = 1/e on the range, and the covariances that
inverse problems invert, c A Aᵀ + s² I, are f(e) = 1/(c e + s²).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minidiff import arguments

GramFunction = Callable[[Tensor], Tensor]


class LinearOperator:
    """A linear map A from samples (B, *shape) to measurements (B, *measured).

    A subclass sets `shape` and `measured` and defines `forward`, `adjoint` and `of_gram`; x and y may be of any
    floating-point dtype and on any device. `cutoff` is the eigenvalue of A Aᵀ at and below which a direction counts as
    not measured.
    """

    shape: tuple[int, ...]
    measured: tuple[int, ...]
    cutoff: float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """A x: (B, *shape) → (B, *measured)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x)")

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y: (B, *measured) → (B, *shape)."""
        raise NotImplementedError(f"{type(self).__name__} must define adjoint(y)")

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """f(A Aᵀ) y, where `function` maps the eigenvalues of A Aᵀ, all ≥ 0, to numbers; (B, *measured).

        The numbers may have the shape of the eigenvalues behind a batch axis, (B, …), one function a row.
        """
        raise NotImplementedError(f"{type(self).__name__} must define of_gram(y, function)")

    def __call__(self, x: Tensor) -> Tensor:
        """A x, with the shape of x checked. Raises ValueError unless x is (B, *shape)."""
        arguments.floating("x", x)
        if x.ndim == 0 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x must have shape (B, {_listed(self.shape)}), got {tuple(x.shape)}")
        return self.forward(x)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺ y = Aᵀ (A Aᵀ)⁺ y, the shortest x among those with the least |y − A x|; (B, *measured) → (B, *shape).

        Raises ValueError for a y of another shape.
        """
        self._check_shape(y)
        return self.adjoint(self.of_gram(y, lambda e: torch.where(e > self.cutoff, 1 / e, 0.0)))

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A as a matrix (M, N) over flattened samples and measurements."""
        basis = torch.eye(math.prod(self.shape), dtype=dtype).reshape(-1, *self.shape)
        return self.forward(basis).flatten(1).mT.contiguous()

    def check_measurement(self, y: Tensor, x: Tensor) -> None:
        """Raise unless y is finite and floating point, of shape (B, *measured) for the B rows of x."""
        arguments.finite("y", y)
        self._check_shape(y)
        same_batch(y, x)

    def _check_shape(self, y: Tensor) -> None:
        """Raise ValueError unless y is (B, *measured)."""
        if y.ndim == 0 or tuple(y.shape[1:]) != self.measured:
            raise ValueError(f"y must have shape (B, {_listed(self.measured)}), got {tuple(y.shape)}")


def same_batch(y: Tensor, x: Tensor) -> None:
    """Raise ValueError unless y has one measurement for each row of x."""
    if y.ndim == 0 or len(y) != len(x):
        got = len(y) if y.ndim else "a single number"
        raise ValueError(f"y must hold one measurement a sample, got {got} for x {tuple(x.shape)}")


class Matrix(LinearOperator):
    """Any linear map as a matrix (M, N) over the N values of a sample of the given shape; y is (B, M).

    shape defaults to (N,). Raises ValueError for a matrix that does not fit. `Matrix.of(function, shape)` reads the
    matrix from a function.
    """

    def __init__(self, matrix: Tensor, shape: Sequence[int] | None = None) -> None:
        arguments.finite("matrix", matrix)
        self.shape = tuple(shape) if shape is not None else tuple(matrix.shape[1:])
        if matrix.ndim != 2 or not matrix.numel() or math.prod(self.shape) != matrix.shape[1]:
            raise ValueError(f"matrix must be (M, N) for N = {math.prod(self.shape)}, got {tuple(matrix.shape)}")
        self.measured = (matrix.shape[0],)
        self.dense = matrix.double()
        self.axes, values, _ = torch.linalg.svd(self.dense)
        self.eigenvalues = torch.nn.functional.pad(values.square(), (0, matrix.shape[0] - len(values)))
        # Singular values below rounding are zero.
        self.cutoff = float(self.eigenvalues.max()) * (1e-14 * max(matrix.shape)) ** 2

    @classmethod
    def of(cls, function: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Matrix:
        """The matrix of a function from (B, *shape) to (B, *measured), by its values on the basis.

        Raises ValueError, by `check_linear`, for a function that is not linear.
        """
        check_linear(function, shape)
        basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return cls(function(basis).flatten(1).mT.contiguous(), shape)

    def forward(self, x: Tensor) -> Tensor:
        """A x over flattened x."""
        return x.flatten(1) @ self.dense.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y in the shape of a sample."""
        self._check_shape(y)
        return (y @ self.dense.to(y)).reshape(len(y), *self.shape)

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """U f(ς²) Uᵀ y."""
        axes = self.axes.to(y)
        return ((y @ axes) * function(self.eigenvalues.to(y))) @ axes.mT


def check_linear(function: Callable[[Tensor], Tensor], shape: Sequence[int], seed: int = 0) -> None:
    """Raise ValueError unless A(a x + b z) = a A(x) + b A(z) on random x, z, so that also A(0) = 0; in float64.

    function maps (B, *shape) to (B, *measured), row by row: one whose rows depend on each other is refused, too. A map
    that is linear only near the origin, such as clipping, is found out by probes of different sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 2, 9, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    x, z = (sizes * torch.randn(9, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    together = function(x)
    got, needed = function(0.7 * x - 1.3 * z), 0.7 * together - 1.3 * function(z)
    arguments.same_shape("A(x)", got, "A(z)", needed)
    offset = function(torch.zeros_like(x[:1]))
    scale = needed.abs().flatten(1).amax(1).clamp(min=1e-9)
    error = ((got - needed).abs().flatten(1).amax(1) / scale).max()
    if float(offset.abs().max()) > 1e-9 or not float(error) < 1e-6:
        raise ValueError(
            f"the operator is not linear: |A(0)| = {float(offset.abs().max()):.1e}, and A(a x + b z) differs from "
            f"a A(x) + b A(z) by {float(error):.1e} of its size; this method needs a linear one (DPS takes any)"
        )
    apart = (torch.cat([function(row[None]) for row in x]) - together).abs().flatten(1).amax(1)
    if not bool((apart < 1e-6 * together.abs().flatten(1).amax(1).clamp(min=1e-9)).all()):
        raise ValueError("the operator must act on each row by itself: a row alone is measured differently in a batch")


def require_linear(A: object, method: str) -> None:
    """Raise TypeError unless A is a `LinearOperator`; `Matrix.of` makes one of a linear function."""
    if not isinstance(A, LinearOperator):
        raise TypeError(
            f"{method} assumes a linear operator and needs a LinearOperator, got {type(A).__name__}: "
            "Matrix.of(function, shape) makes one, and says if the function is not linear"
        )


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
