"""A plain perceptron: what the other families use where no time enters."""

from __future__ import annotations

from torch import nn

from minidiff import arguments


def perceptron(inputs: int, outputs: int, width: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear, SiLU, dropout, Linear, SiLU, dropout, Linear: (B, inputs) → (B, outputs) through two layers of `width`.

    Raises ValueError for sizes below 1 or a dropout outside [0, 1).
    """
    for name, value in (("inputs", inputs), ("outputs", outputs), ("width", width)):
        arguments.positive_integer(name, value)
    arguments.real("dropout", dropout, 0.0, 1 - 1e-9)
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(width, width),
        nn.SiLU(),
        nn.Dropout(dropout),
        nn.Linear(width, outputs),
    )
