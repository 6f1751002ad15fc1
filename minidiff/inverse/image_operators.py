"""The operators of image restoration: inpainting, super-resolution, blur. Each knows the spectrum of A Aᵀ by heart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.inverse.operators import GramFunction, LinearOperator, same_batch


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
        self._check_shape(y)
        return self.put(y.new_zeros(len(y), *self.shape), y)

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """f(1) y."""
        return _scaled(y, function(y.new_ones(())))

    def put(self, x: Tensor, y: Tensor) -> Tensor:
        """A copy of x (B, *D) with the values y (B, M) at the measured places, bit for bit.

        Raises ValueError for a y of another shape.
        """
        self._check_shape(y)
        same_batch(y, x)
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
        self._check_shape(y)
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
        self._check_shape(y)
        return self._filtered(y, self.transfer.conj())

    def of_gram(self, y: Tensor, function: GramFunction) -> Tensor:
        """F⁻¹ f(|k̂|²) F y."""
        return self._filtered(y, function(self.transfer.abs().square().to(y.device)))

    @staticmethod
    def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
        if transfer.ndim > 2:  # one a row of the batch: beside the channels
            transfer = transfer.reshape(len(transfer), 1, *transfer.shape[-2:])
        return torch.fft.ifft2(torch.fft.fft2(x.double()) * transfer.to(x.device)).real.to(x.dtype)


def _scaled(y: Tensor, factor: Tensor) -> Tensor:
    """factor · y for a factor () or (B, 1, …) of any number of axes."""
    return y * (factor.reshape(-1, *[1] * (y.ndim - 1)) if factor.ndim else factor)


def _image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (C, H, W), got {shape}")
    return shape
