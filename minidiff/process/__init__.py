"""Forward processes: x_t = α_t x_0 + σ_t ε with t = 0 the data and t = 1 the noise."""

from minidiff.process.base import Process, VarianceExploding, VariancePreserving
from minidiff.process.exploding import EDM, VE
from minidiff.process.flow import RectifiedFlow, Shifted, TrigFlow
from minidiff.process.preserving import CosineVP, LinearVP, SigmoidVP, SNRShifted, SubVP
from minidiff.process.tabulated import Tabulated, zero_terminal

__all__ = [
    "EDM",
    "VE",
    "CosineVP",
    "LinearVP",
    "Process",
    "RectifiedFlow",
    "SNRShifted",
    "Shifted",
    "SigmoidVP",
    "SubVP",
    "Tabulated",
    "TrigFlow",
    "VarianceExploding",
    "VariancePreserving",
    "zero_terminal",
]
