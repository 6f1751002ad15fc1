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
        """A⁺ y = Aᵀ (A Aᵀ)⁺ y, the shortest x among those with the least |y − A x|; (B, *measured) → (B, *shape)."""
        return self.adjoint(self.of_gram(y, lambda e: torch.where(e > self.cutoff, 1 / e, 0.0)))

    def matrix(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """A as a matrix (M, N) over flattened samples and measurements."""
        basis = torch.eye(math.prod(self.shape), dtype=dtype).reshape(-1, *self.shape)
        return self.forward(basis).flatten(1).mT.contiguous()

    def check_measurement(self, y: Tensor, x: Tensor) -> None:
        """Raise unless y is finite and floating point, of shape (B, *measured) for the B rows of x."""
        arguments.finite("y", y)
        if tuple(y.shape[1:]) != self.measured:
            raise ValueError(f"y must have shape (B, {_listed(self.measured)}), got {tuple(y.shape)}")
        same_batch(y, x)


def same_batch(y: Tensor, x: Tensor) -> None:
    """Raise ValueError unless y has one measurement for each row of x."""
    if len(y) != len(x):
        raise ValueError(f"y must hold one measurement a sample, got {len(y)} for x {tuple(x.shape)}")


class Mask(LinearOperator):
    """Inpainting: the values of x where mask (*D) is True, in order, as a vector; A Aᵀ = I. y is (B, M).

    Raises TypeError unless mask is boolean, ValueError unless it measures something.
    """

    def __init__(self, mask: Tensor) -> None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a boolean tensor, True where measured, got {getattr(mask, 'dtype', mask)!r}")
        if mask.ndim < 1 or not bool(mask.any()):
            raise ValueError(f"mask (*D) must be True somewhere, got shape {tuple(mask.shape)} without any")
        self.mask = mask
        self.shape = tuple(mask.shape)
        self.measured = (int(mask.sum()),)

    def forward(self, x: Tensor) -> Tensor:
        """x[mask] of each row."""
        return x[:, self.mask.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """y at the measured places, 0 elsewhere."""
        return self.put(y.new_zeros(len(y), *self.shape), y)

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """f(1) y."""
        return _scaled(y, function(y.new_ones(())))

    def put(self, x: Tensor, y: Tensor) -> Tensor:
        """A copy of x (B, *D) with the values y (B, M) at the measured places, bit for bit."""
        x = x.clone()
        x[:, self.mask.to(x.device)] = y
        return x


class AveragePool(LinearOperator):
    """Super-resolution: the mean of each block of factor × factor pixels of images (B, C, H, W); A Aᵀ = I/factor².

    shape: (C, H, W) of the large image. Raises ValueError unless factor divides H and W.
    """

    def __init__(self, shape: Sequence[int], factor: int) -> None:
        self.shape = _image_shape(shape)
        arguments.positive_integer("factor", factor)
        channels, height, width = self.shape
        if height % factor or width % factor:
            raise ValueError(f"factor must divide the height and the width, got {factor} for {height} × {width}")
        self.factor = factor
        self.measured = (channels, height // factor, width // factor)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over each block."""
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """y/factor² at every pixel of its block."""
        repeated = y.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return repeated / self.factor**2

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """f(1/factor²) y."""
        return _scaled(y, function(y.new_tensor(1 / self.factor**2)))


class Blur(LinearOperator):
    """Convolution of images (B, C, H, W) with a kernel (h, w) on a torus, one kernel for all channels.

    The kernel's centre is kernel[h // 2, w // 2]. The Fourier transform diagonalises A, so that every function of A Aᵀ
    costs two transforms. shape: (C, H, W). Directions with |k̂|² at or below `cutoff` times the largest count as not
    measured: blur destroys them, and the pseudo-inverse leaves them alone. Raises ValueError for a kernel that is not a
    matrix or larger than the image, and for a cutoff outside [0, 1).
    """

    def __init__(self, kernel: Tensor, shape: Sequence[int], cutoff: float = 1e-12) -> None:
        self.shape = self.measured = _image_shape(shape)
        arguments.finite("kernel", kernel)
        arguments.real("cutoff", cutoff, 0.0, 1 - 1e-12)
        _, height, width = self.shape
        if kernel.ndim != 2 or kernel.shape[0] > height or kernel.shape[1] > width or not kernel.any():
            raise ValueError(
                f"kernel must be a matrix (h, w), not zero and no larger than {height} × {width}, "
                f"got shape {tuple(kernel.shape)}"
            )
        wide = kernel.new_zeros(height, width, dtype=torch.float64)
        wide[: kernel.shape[0], : kernel.shape[1]] = kernel
        self.transfer = torch.fft.fft2(wide.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))
        self.cutoff = cutoff * float(self.transfer.abs().square().max())

    def forward(self, x: Tensor) -> Tensor:
        """The convolution k ∗ x."""
        return self._filtered(x, self.transfer)

    def adjoint(self, y: Tensor) -> Tensor:
        """The correlation with k."""
        return self._filtered(y, self.transfer.conj())

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """F⁻¹ f(|k̂|²) F y."""
        return self._filtered(y, function(self.transfer.abs().square().to(y.device)))

    @staticmethod
    def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
        if transfer.ndim > 2:  # one a row of the batch: beside the channels
            transfer = transfer.reshape(len(transfer), 1, *transfer.shape[-2:])
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * transfer.to(x.device)).real.to(x.dtype)


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
        return (y @ self.dense.to(y)).reshape(len(y), *self.shape)

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """U f(ς²) Uᵀ y."""
        axes = self.axes.to(y)
        return ((y @ axes) * function(self.eigenvalues.to(y))) @ axes.mT


def check_linear(function: Callable[[Tensor], Tensor], shape: Sequence[int], seed: int = 0) -> None:
    """Raise ValueError unless A(a x + b z) = a A(x) + b A(z) on random x, z, so that also A(0) = 0; in float64.

    function maps (B, *shape) to (B, *measured). A map that is linear only near the origin, such as clipping, is found
    out by probes of different sizes.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 2, 9, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    x, z = (sizes * torch.randn(9, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    got, needed = function(0.7 * x - 1.3 * z), 0.7 * function(x) - 1.3 * function(z)
    arguments.same_shape("A(x)", got, "A(z)", needed)
    offset = function(torch.zeros_like(x[:1]))
    scale = needed.abs().flatten(1).amax(1).clamp(min=1e-9)
    error = ((got - needed).abs().flatten(1).amax(1) / scale).max()
    if float(offset.abs().max()) > 1e-9 or not float(error) < 1e-6:
        raise ValueError(
            f"the operator is not linear: |A(0)| = {float(offset.abs().max()):.1e}, and A(a x + b z) differs from "
            f"a A(x) + b A(z) by {float(error):.1e} of its size; this method needs a linear one (DPS takes any)"
        )


def require_linear(A: object, method: str) -> None:
    """Raise TypeError unless A is a `LinearOperator`; `Matrix.of` makes one of a linear function."""
    if not isinstance(A, LinearOperator):
        raise TypeError(
            f"{method} assumes a linear operator and needs a LinearOperator, got {type(A).__name__}: "
            "Matrix.of(function, shape) makes one, and says if the function is not linear"
        )


def _listed(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _scaled(y: Tensor, factor: Tensor) -> Tensor:
    """factor · y for a factor () or (B, 1, …) of any number of axes."""
    return y * (factor.reshape(-1, *[1] * (y.ndim - 1)) if factor.ndim else factor)


def _image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (C, H, W), got {shape}")
    return shape
