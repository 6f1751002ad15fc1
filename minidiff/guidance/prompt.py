"""Learned prompts: a condition that is itself trained, in front of a frozen denoiser."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import arguments
from minidiff.denoiser import Denoiser, Given


class PromptEmbedding(nn.Module):
    """M learned vectors v_m in the place of an embedded word or label; with `features`, v_m + π(f).

    π(f) = W_2 ReLU(W_1 f + b_1) + b_2 is the same for all m and depends on what is known of a sample, f (B, features);
    its hidden layer has features/16 units, and W_2 = b_2 = 0 at the start, so that training starts at the shared
    vectors. Without it: CoOp (Zhou et al. 2022a), and textual inversion (Gal et al. 2023) for M = 1; with it: CoCoOp
    (Zhou et al. 2022b).

    start: (M, width), the vectors to begin with, as the embedding of a related label. Raises TypeError or ValueError
    unless it is finite and has two axes, and for features < 1.
    """

    def __init__(self, start: Tensor, features: int | None = None) -> None:
        super().__init__()
        arguments.finite("start", start)
        if start.ndim != 2 or not start.numel():
            raise ValueError(f"start must be (M, width), got {tuple(start.shape)}")
        self.vectors = nn.Parameter(start.detach().clone())
        self.features = features
        if features is not None:
            arguments.positive_integer("features", features)
            hidden = max(features // 16, 1)
            self.enter, self.leave = nn.Linear(features, hidden), nn.Linear(hidden, start.shape[1])
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def forward(self, f: Tensor | None = None) -> Tensor:
        """(1, M, width) without features, (B, M, width) for f (B, features); raises ValueError for another f."""
        if self.features is None:
            if f is not None:
                raise ValueError("this prompt has no shift (features=None): f must be None")
            return self.vectors[None]
        if f is None or f.ndim != 2 or f.shape[1] != self.features:
            got = None if f is None else tuple(f.shape)
            raise ValueError(f"f must be (B, {self.features}), got {got}")
        arguments.finite("f", f)
        return self.vectors + self.leave(F.relu(self.enter(f)))[:, None]


class Prompted(nn.Module):
    """D(x, t | prompt): the frozen D with the learned vector wherever its table would have embedded a label.

    table: the nn.Embedding of labels inside D, for the networks here `D.net.conditioning.label`; prompt: one vector of
    its width. The parameters of this module are those of the prompt alone, and those of D are frozen
    (requires_grad = False), the table included: no other label changes. `Prompted(x, t, y)` takes f as its condition y,
    `given(f)` binds it; guidance is `autoguidance(Prompted.given(f), D, w)`. One call of the network.

    Raises ValueError for a table that is not in D, and a prompt that is not one vector of its width.
    """

    def __init__(self, D: Denoiser, prompt: PromptEmbedding, table: nn.Embedding) -> None:
        super().__init__()
        if not any(module is table for module in D.modules()):
            raise ValueError("table must be a module inside D: its embedding of labels")
        if prompt.vectors.shape != (1, table.embedding_dim):
            raise ValueError(f"prompt must be (1, {table.embedding_dim}) vectors, got {tuple(prompt.vectors.shape)}")
        self.prompt = prompt
        self._frozen = (D.requires_grad_(False), table)  # in a tuple: no submodule, so that only the prompt is trained
        self.process, self.sigma_data, self.coupled, self.angle = D.process, D.sigma_data, D.coupled, D.angle

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x̂_0 of the shape of x (B, *D); t () or (B,); y (B, features) for a prompt with a shift, else None.

        Raises ValueError for a y of another shape.
        """
        D, table = self._frozen
        vectors = self.prompt(y)[:, 0]
        if y is not None and len(y) != len(x):
            raise ValueError(f"y must hold one row a sample, got {tuple(y.shape)} for x {tuple(x.shape)}")
        handle = table.register_forward_hook(lambda *_: vectors.expand(len(x), -1))
        try:
            return D(x, t, torch.zeros(len(x), dtype=torch.int64, device=x.device))
        finally:
            handle.remove()

    def given(self, y: Tensor | None) -> Given:
        """The denoiser of (x, t) with y bound."""
        return Given(self, y)
