"""Every forward process of the package, for tests that hold for all of them."""

import torch

from minidiff.process import (
    EDM,
    VE,
    CosineVP,
    LinearVP,
    RectifiedFlow,
    Shifted,
    SigmoidVP,
    SNRShifted,
    SubVP,
    Tabulated,
    TrigFlow,
)

LINEAR_BETAS = tuple(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist())
FORMULAS = [
    LinearVP(),
    SubVP(),
    CosineVP(),
    TrigFlow(0.5),
    VE(),
    EDM(),
    RectifiedFlow(),
    Shifted(RectifiedFlow(), 3.0),
    Shifted(LinearVP(), 0.5),
    SigmoidVP(),
    SNRShifted(CosineVP(), 4.0),
]
PROCESSES = [*FORMULAS, Tabulated(LINEAR_BETAS)]


def name(process):
    return str(process)[:40]
