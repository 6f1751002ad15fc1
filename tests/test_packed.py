"""One packed pass gives the logits of separate passes; PMLM's limits, its chain rule and what it may see."""

import itertools

import pytest
import torch
from torch import nn

from minidiff.apps.discrete import (
    order_agnostic_bound,
    pack_copies,
    pack_factorisation,
    partially_autoregressive_loss,
    strings,
)
from minidiff.nets import TokenTransformer

K, L = 3, 5
MASK, PSEUDO = K, K + 1


@pytest.fixture(scope="module")
def net():
    net = TokenTransformer(K + 2, L, width=16, depth=3, heads=2, outputs=K).double()
    random = torch.Generator().manual_seed(0)
    for p in net.parameters():
        nn.init.normal_(p, std=0.4, generator=random)
    return net.requires_grad_(False)


def everything(n):
    return torch.ones(n, n, dtype=torch.bool)


def test_packed_copies_are_separate_passes(net):
    x = torch.randint(0, K + 1, (2, 4, L), generator=torch.Generator().manual_seed(1))
    packed = pack_copies(x)
    logits = net(packed.tokens, None, packed.places, packed.allowed).reshape(2, 4, L, K)
    for c in range(4):
        torch.testing.assert_close(logits[:, c], net(x[:, c]), rtol=0, atol=1e-10)
    careless = net(packed.tokens, None, packed.places).reshape(2, 4, L, K)
    assert float((careless - logits).abs().max()) > 1e-2


STEPS = torch.tensor([[0, 2, 1, 3, 2], [1, 0, 3, 2, 2]])  # four hidden, in three steps
X0 = torch.tensor([[2, 0, 1, 1, 2], [0, 2, 2, 1, 0]])


def test_layout():
    packed = pack_factorisation(X0, STEPS, K)
    assert packed.tokens.tolist()[0] == [2, 0, 1, 1, 2] + [MASK] * 4 + [PSEUDO] * 4
    assert packed.places.tolist() == [[0, 1, 2, 3, 4, 2, 1, 4, 3, 2, 1, 4, 3], [0, 1, 2, 3, 4, 0, 3, 4, 2, 0, 3, 4, 2]]


def test_the_masks_are_a_pass_of_their_own(net):
    """Masked model: the logits at the hidden places of an ordinary pass over the masked string."""
    packed = pack_factorisation(X0, STEPS, K)
    logits = net(packed.tokens, None, packed.places, packed.allowed)[:, L : L + 4]
    plain = net(X0.masked_fill(STEPS > 0, MASK))
    torch.testing.assert_close(
        logits, plain.gather(1, packed.places[:, L : L + 4, None].expand(-1, -1, K)), rtol=0, atol=1e-10
    )


def separate(net, x0, steps, i):
    """The pass of step i by itself, built token by token in plain Python; {place: logits} of its pseudo-masks."""
    places = range(L)
    tokens = [("given", p, int(x0[p])) for p in places if steps[p] == 0]
    tokens += [("mask", p, MASK) for p in places if steps[p] > 0]
    tokens += [("true", p, int(x0[p])) for p in places if 0 < steps[p] < i]
    tokens += [("pseudo", p, PSEUDO) for p in places if steps[p] == i]

    def sees(row, column):
        (kind, p, _), (other, q, _) = row, column
        if other == "given":
            return True
        if kind in ("given", "mask"):
            return other == "mask"
        if other == "mask":
            return bool(steps[q] > steps[p])
        if other == "true":
            return bool(steps[q] <= steps[p] if kind == "true" else steps[q] < steps[p])
        return kind == "pseudo"

    allowed = torch.tensor([[sees(a, b) for b in tokens] for a in tokens])
    logits = net(torch.tensor([[v for *_, v in tokens]]), None, torch.tensor([p for _, p, _ in tokens]), allowed)[0]
    return {p: logits[j] for j, (kind, p, _) in enumerate(tokens) if kind == "pseudo"}


def test_each_step_is_a_pass_of_its_own(net):
    """Partially autoregressive: the logits of the pseudo-masks, to 1e-10, for each step passed by itself."""
    packed = pack_factorisation(X0, STEPS, K)
    logits = net(packed.tokens, None, packed.places, packed.allowed)
    for row, i in itertools.product(range(2), (1, 2, 3)):
        for place, expected in separate(net, X0[row], STEPS[row], i).items():
            column = L + 4 + packed.places[row, L + 4 :].tolist().index(place)
            torch.testing.assert_close(logits[row, column], expected, rtol=0, atol=1e-10)


def test_one_token_a_step_is_a_normalised_autoregressive_model(net):
    """Σ over every completion of exp(−loss) is 1: nothing leaks from a token to its own prediction."""
    completions = strings(K, 3)
    x0 = torch.tensor([[2, 0, 0, 1, 0]]).repeat(len(completions), 1)
    x0[:, [1, 2, 4]] = completions
    steps = torch.tensor([[0, 3, 1, 0, 2]]).expand(len(completions), -1)
    losses = partially_autoregressive_loss(net, x0, steps, K)
    for loss in losses:  # the masked model is a product, hence normalised as well
        assert float((-loss).exp().sum()) == pytest.approx(1, abs=1e-12)
    assert float((losses.autoregressive - losses.autoencoding).abs().min()) > 1e-4


def test_a_block_is_normalised_too(net):
    completions = strings(K, 3)
    x0 = torch.cat([completions, torch.zeros(len(completions), 2, dtype=torch.int64)], 1)
    steps = torch.tensor([[1, 2, 2, 0, 0]]).expand(len(completions), -1)
    loss = partially_autoregressive_loss(net, x0, steps, K).autoregressive
    assert float((-loss).exp().sum()) == pytest.approx(1, abs=1e-12)


def test_one_step_for_all_is_a_masked_model():
    """A network whose pseudo-mask looks like its mask: with one block both losses are the same."""
    random = torch.Generator().manual_seed(3)
    net = TokenTransformer(K + 2, L, width=16, depth=3, heads=2, outputs=K).double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.4, generator=random)
    with torch.no_grad():
        net.token.weight[PSEUDO] = net.token.weight[MASK]
    steps = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 1, 0]])
    losses = partially_autoregressive_loss(net, X0, steps, K)
    torch.testing.assert_close(losses.autoregressive, losses.autoencoding)


def test_losses_are_the_means_of_masked_diffusion(net):
    """Weighted over all masks as in `order_agnostic_bound`, the autoencoding loss is the bound of masked diffusion."""
    x0, total = X0[:1], 0.0
    for row in strings(2, L)[1:]:
        k = int(row.sum())
        weight = 1 / (k * len(list(itertools.combinations(range(L), k))))
        total += weight * float(partially_autoregressive_loss(net, x0, row[None], K).autoencoding)
    bound = order_agnostic_bound(lambda x, t: net(x), x0, K)
    assert total == pytest.approx(float(bound), abs=1e-10)


def test_a_label_order_does_not_matter(net):
    """Steps 1, 2, 3 renamed 2, 5, 9 are the same factorisation."""
    renamed = torch.tensor([0, 2, 5, 9])[STEPS]
    for a, b in zip(
        partially_autoregressive_loss(net, X0, STEPS, K),
        partially_autoregressive_loss(net, X0, renamed, K),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: pack_copies(torch.zeros(2, 3, dtype=torch.int64)),
            ValueError,
            r"x must have shape \(B, C, L\), got \(2, 3\)",
        ),
        (lambda: pack_copies([1]), ValueError, "got list"),
        (lambda: pack_copies(torch.zeros(1, 2, 3)), TypeError, "x must be an int64 tensor"),
        (lambda: pack_copies(torch.full((1, 2, 3), -1)), ValueError, "tokens of x must lie in"),
        (lambda: pack_factorisation(X0, STEPS, 2), ValueError, "tokens of x0 must lie in 0 … 1, got 0 … 2"),
        (lambda: pack_factorisation(X0, STEPS[:, :4], K), ValueError, "steps and x0 must have the same shape"),
        (lambda: pack_factorisation(X0, -STEPS, K), ValueError, "tokens of steps must lie in"),
        (lambda: pack_factorisation(X0, 0 * STEPS, K), ValueError, r"same number ≥ 1 of tokens, got \[0, 0\]"),
        (
            lambda: pack_factorisation(X0, torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]), K),
            ValueError,
            r"got \[1, 2\]",
        ),
        (
            lambda: partially_autoregressive_loss(lambda x, t, places, allowed: torch.zeros(*x.shape, 2), X0, STEPS, K),
            ValueError,
            "net must return logits of shape",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
