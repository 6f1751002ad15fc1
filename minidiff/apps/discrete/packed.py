"""Several masked versions of a string in one pass: packed side by side, with an attention mask that keeps them apart.

Two uses: independent masked copies (one pass trains several noise levels), and PMLM, in which one pass gives the loss
of a masked model (all hidden tokens at once) and of a partially autoregressive one (block after block; Bao et al.
2020).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minidiff import arguments
from minidiff.apps.discrete.tokens import check_tokens, of_data


class PackedNet(Protocol):
    """A network on tokens with places and attention given, such as `minidiff.nets.TokenTransformer`."""

    def __call__(self, x: Tensor, t: Tensor | None, places: Tensor, allowed: Tensor) -> Tensor:
        """x (B, N), t or None, places (B, N), allowed (N, N) or (B, N, N) → logits (B, N, K)."""
        ...


class Packed(NamedTuple):
    """Tokens (B, N), their places in the string (B, N), and allowed (N, N) or (B, N, N): the row may see the column."""

    tokens: Tensor
    places: Tensor
    allowed: Tensor


def pack_copies(x: Tensor) -> Packed:
    """C versions (B, C, L) of each string, side by side in one row (B, C L), each seeing itself alone.

    Logits (B, C L, K) of the pass, reshaped to (B, C, L, K), are those of C separate passes; computed densely,
    attention costs C times as much as they do. Raises TypeError or ValueError unless x is int64 (B, C, L).
    """
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.numel():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must have shape (B, C, L), got {got}")
    check_tokens("x", x.flatten(1), torch.iinfo(torch.int64).max)
    rows, copies, length = x.shape
    owner = torch.arange(copies, device=x.device).repeat_interleave(length)
    places = torch.arange(length, device=x.device).repeat(copies).expand(rows, -1)
    return Packed(x.flatten(1), places, owner[:, None] == owner)


def pack_factorisation(x0: Tensor, steps: Tensor, vocabulary: int) -> Packed:
    """[the string; masks at the hidden places; pseudo-masks there] of PMLM, N = L + 2m tokens for m hidden ones.

    x0 (B, L) clean; steps (B, L) int64: 0 for a place that is given, i ≥ 1 for one that is predicted at step i, with
    m > 0 hidden places in every row. The mask is the token K = `vocabulary`, the pseudo-mask K + 1. The hidden places
    stand in the order of their steps, ties in the order of the string. Who sees whom, for V_i the true tokens and
    P_i the pseudo-masks of step i, M_i the masks:

    * given tokens and masks: given tokens and all masks, as in a pass of their own (the masked model);
    * V_i: the given, V_j for j ≤ i, M_j for j > i;
    * P_i: the given, V_j for j < i, P_i, M_j for j > i.

    So P_i predicts x^i from the given tokens and the earlier steps and from nothing else. Raises TypeError or
    ValueError for tokens outside the vocabulary, steps of another shape or below 0, and rows that hide different
    numbers. Source: Bao et al. 2020, section 3.
    """
    check_tokens("x0", x0, vocabulary)
    check_tokens("steps", steps, torch.iinfo(torch.int64).max)
    arguments.same_shape("steps", steps, "x0", x0)
    hidden = steps > 0
    count = hidden.sum(1)
    m = int(count[0])
    if not bool((count == m).all()) or not m:
        raise ValueError(f"every row must hide the same number ≥ 1 of tokens, got {count.tolist()[:8]}")
    length = x0.shape[1]
    places = steps.masked_fill(~hidden, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)[:, :m]  # (B, m)
    step = torch.cat([steps, steps.gather(1, places), steps.gather(1, places)], 1)
    kind = torch.cat([hidden.long(), torch.full_like(places, 2), torch.full_like(places, 3)], 1)  # given V M P
    given, true, masked, pseudo = (kind == k for k in range(4))
    earlier, same, later = (
        compare(step[:, None, :], step[:, :, None]) for compare in (torch.lt, torch.eq, torch.gt)
    )  # the column's step against the row's
    plain = (given | masked)[:, None, :]
    of_given = true[:, None, :] & earlier | masked[:, None, :] & later | given[:, None, :]
    allowed = torch.where((given | masked)[:, :, None], plain, of_given)
    allowed = allowed | true[:, :, None] & true[:, None, :] & same | pseudo[:, :, None] & pseudo[:, None, :] & same
    tokens = torch.cat([x0, torch.full_like(places, vocabulary), torch.full_like(places, vocabulary + 1)], 1)
    line = torch.arange(length, device=x0.device).expand(len(x0), -1)
    return Packed(tokens, torch.cat([line, places, places], 1), allowed)


class PartialLosses(NamedTuple):
    """−Σ log p(x^i | given) of the masked model and −Σ_i log p(x_{M_i} | given, earlier steps), each (B,) nats."""

    autoencoding: Tensor
    autoregressive: Tensor


def partially_autoregressive_loss(net: PackedNet, x0: Tensor, steps: Tensor, vocabulary: int) -> PartialLosses:
    """Both losses of PMLM from one pass; their sum is what is trained.

    The network's first K logits, K = `vocabulary`, are those of the clean tokens. One token a step makes the second
    loss the exact −log-likelihood of an autoregressive model in that order; one step for all makes it a masked model.
    Raises what `pack_factorisation` raises, and ValueError for logits of another shape. Source: Bao et al. 2020,
    section 3.
    """
    packed = pack_factorisation(x0, steps, vocabulary)
    logits = net(packed.tokens, None, packed.places, packed.allowed)
    if logits.shape[:-1] != packed.tokens.shape or logits.shape[-1] < vocabulary:
        wanted = (*packed.tokens.shape, vocabulary)
        raise ValueError(
            f"net must return logits of shape {wanted}, or with more at the end, got {tuple(logits.shape)}"
        )
    length = x0.shape[1]
    hidden = packed.places[:, length:]
    nll = -of_data(logits[:, length:, :vocabulary].double().log_softmax(-1), x0.gather(1, hidden))
    masks, pseudo = nll.chunk(2, 1)
    return PartialLosses(masks.sum(1), pseudo.sum(1))
