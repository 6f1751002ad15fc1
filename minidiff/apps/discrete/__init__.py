"""Diffusion of tokens: chains of transition matrices, masks, jumps in continuous time, and a table that knows all.

Tokens x are int64 of shape (B, L) with values below a vocabulary size. The one currency is, as everywhere, what is
known of the clean data: a `DiscreteDenoiser` D(x, t) returns unnormalised log-probabilities of each clean token given
the whole noisy string, (B, L, K). Where there is a mask it is the token K, one beyond the K clean ones.
"""

from minidiff.apps.discrete.chain import Chain, absorbing_steps, discretised_gaussian_steps, uniform_steps
from minidiff.apps.discrete.jumps import euler_jumps, jump_rates, mixture_kernel, mixture_noise
from minidiff.apps.discrete.label_sets import beam_search, extreme_losses, ordered_loss, self_ordered_loss
from minidiff.apps.discrete.laws import (
    law_of_ancestral,
    law_of_unmasking,
    order_agnostic_bound,
    strings,
    total_variation,
)
from minidiff.apps.discrete.masked import ancestral, count_loss, mask, rate_loss, unmask
from minidiff.apps.discrete.packed import Packed, pack_copies, pack_factorisation, partially_autoregressive_loss
from minidiff.apps.discrete.table import Table
from minidiff.apps.discrete.tokens import DiscreteDenoiser

__all__ = [
    "Chain",
    "DiscreteDenoiser",
    "Packed",
    "Table",
    "absorbing_steps",
    "ancestral",
    "beam_search",
    "count_loss",
    "discretised_gaussian_steps",
    "euler_jumps",
    "extreme_losses",
    "jump_rates",
    "law_of_ancestral",
    "law_of_unmasking",
    "mask",
    "mixture_kernel",
    "mixture_noise",
    "order_agnostic_bound",
    "ordered_loss",
    "pack_copies",
    "pack_factorisation",
    "partially_autoregressive_loss",
    "rate_loss",
    "self_ordered_loss",
    "strings",
    "total_variation",
    "uniform_steps",
    "unmask",
]
