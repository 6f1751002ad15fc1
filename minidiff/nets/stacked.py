"""Many networks of one architecture as one: their parameters stacked, their layers evaluated together."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Stacked(nn.Module):
    """K networks with equal shapes whose batches lie one behind the other: rows kB … (k + 1)B − 1 go through network k.

    One call of K small networks costs far less than K calls, most of which would be spent on launching operations. The
    networks stay independent: each gets the gradient of its own rows, and an optimiser that works parameter by
    parameter, such as Adam without clipping of the common norm, trains each as if it were alone.

    networks: K modules of one architecture, called net(x, t); they are copied. Their buffers must be equal. Raises
    ValueError for none and RuntimeError, from torch, for shapes that differ.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("a stack needs at least one network, got none")
        parameters, _ = stack_module_state(list(networks))
        self.names = list(parameters)
        self.count = len(networks)
        self.stacked = nn.ParameterList(nn.Parameter(value.detach().clone()) for value in parameters.values())
        # Not a submodule: its own parameters are replaced in each call and must be neither trained nor averaged.
        self.__dict__["one"] = copy.deepcopy(networks[0]).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x: (K B, *D), t: () or (K B,), y must be None → (K B, *D). Raises ValueError for rows that do not divide."""
        if y is not None:
            raise ValueError("a stack of networks takes no condition")
        if len(x) % self.count:
            raise ValueError(f"x must hold the same number of rows for each of {self.count} networks, got {len(x)}")

        def call(parameters: dict[str, Tensor], x: Tensor, t: Tensor) -> Tensor:
            return functional_call(self.one, parameters, (x, t))

        parameters = dict(zip(self.names, self.stacked, strict=True))
        shared = t.ndim == 0
        times = t if shared else t.unflatten(0, (self.count, -1))
        rows = vmap(call, in_dims=(0, 0, None if shared else 0))(parameters, x.unflatten(0, (self.count, -1)), times)
        return rows.flatten(0, 1)

    @torch.no_grad()
    def network(self, k: int) -> nn.Module:
        """A copy of network k alone. Raises IndexError for a k that is not 0 … K − 1."""
        if not 0 <= k < self.count:
            raise IndexError(f"k must be 0 … {self.count - 1}, got {k}")
        net = copy.deepcopy(self.one)
        for name, value in zip(self.names, self.stacked, strict=True):
            net.get_parameter(name).copy_(value[k])
        return net.requires_grad_(True)
