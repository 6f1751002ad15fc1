"""The parametrisation algebra, and the denoiser D(x, t) = E[x_0 | x_t = x] in which the whole package speaks."""

from minidiff.denoiser.conversion import Coefficient, Prediction, convert, marginal, predict
from minidiff.denoiser.network import Denoiser, Given
from minidiff.denoiser.protocol import Angle, Combined, DenoiserLike, check_angle, check_denoiser

__all__ = [
    "Angle",
    "Coefficient",
    "Combined",
    "Denoiser",
    "DenoiserLike",
    "Given",
    "Prediction",
    "check_angle",
    "check_denoiser",
    "convert",
    "marginal",
    "predict",
]
