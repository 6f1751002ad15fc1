"""The dual encoder: names by hand, contexts that shift or do not, what is trained, and how often a name is read."""

import math

import pytest
import torch
from torch import nn

from minidiff.guidance import PromptEmbedding
from minidiff.nets import DualEncoder, contrastive_loss

NAMES = torch.tensor([[0, 4], [1, 4], [1, 5]])
HAND = torch.tensor([2, 3])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder():
    torch.manual_seed(0)
    return DualEncoder(nn.Linear(6, 8), words=7, width=8, length=5).double()


def test_logits_are_cosines_of_each_name_alone():
    E, x = encoder(), draw(4, 6)
    logits = E(x, NAMES, E.context(HAND))
    assert E.log_scale.exp().item() == pytest.approx(10)
    for b in range(4):
        f = E.image(x[b])
        for c in range(3):
            sentence = E.words(torch.cat([HAND, NAMES[c]])) + E.place[:4]
            g = E.leave(E.layer(sentence[None])[0].mean(0))
            torch.testing.assert_close(logits[b, c], 10 * f @ g / (f.norm() * g.norm()))


def test_the_context_by_hand_is_part_of_the_name():
    E = encoder()
    whole = E.names(torch.cat([HAND.expand(3, 2), NAMES], 1))
    torch.testing.assert_close(E.names(NAMES, E.context(HAND)), whole)
    assert whole.shape == (1, 3, 8)
    torch.testing.assert_close(whole.norm(dim=-1), torch.ones(1, 3).double())


def test_a_longer_code_of_a_picture_changes_nothing():
    E, x = encoder(), draw(4, 6)
    before = E(x, NAMES)
    E.image = nn.Sequential(E.image, nn.Linear(8, 8, bias=False).double())
    E.image[1].weight.data = 3 * torch.eye(8).double()
    torch.testing.assert_close(E(x, NAMES), before)


def test_no_shift_at_the_start_and_only_the_context_is_trained():
    E, x = encoder().requires_grad_(False), draw(4, 6)
    shared = PromptEmbedding(E.context(HAND)[0])
    shifted = PromptEmbedding(E.context(HAND)[0], 8).double()
    context = shifted(E.pictures(x))
    assert context.shape == (4, 2, 8)
    torch.testing.assert_close(E(x, NAMES, context), E(x, NAMES, shared()))
    E(x, NAMES, context).logsumexp(1).sum().backward()
    assert shifted.vectors.grad.abs().max() > 0
    assert shifted.leave.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in E.parameters())


def test_a_row_hears_its_own_context():
    E, x, context = encoder(), draw(4, 6), draw(4, 2, 8, seed=1)
    made = E(x, NAMES, context)
    for b in range(4):
        torch.testing.assert_close(made[b], E(x[b : b + 1], NAMES, context[b : b + 1])[0])


@pytest.mark.parametrize(("rows", "calls"), [(1, 3), (4, 12)])
def test_names_read(rows, calls):
    """A shared context costs a call of g for each class, one of its own for each picture and class."""
    E, seen = encoder(), []
    E.layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    E(draw(4, 6), NAMES, draw(rows, 2, 8))
    assert seen == [calls]


def test_the_contrastive_loss():
    f, g = (nn.functional.normalize(draw(3, 4, seed=s), dim=1) for s in (0, 1))
    loss = contrastive_loss(f, g, torch.tensor(5.0))
    for b in range(3):
        to_g = math.log(sum(math.exp(5 * f[b] @ g[c]) for c in range(3)))
        to_f = math.log(sum(math.exp(5 * f[c] @ g[b]) for c in range(3)))
        assert float(loss[b]) == pytest.approx((to_g + to_f) / 2 - 5 * float(f[b] @ g[b]))
    one = torch.eye(3)
    assert contrastive_loss(one, one, torch.tensor(50.0)).max() < 1e-6


def test_refusals():
    E, x = encoder(), draw(4, 6)
    for call, message in (
        (lambda: DualEncoder(nn.Identity(), 0), "words must be at least 1"),
        (lambda: DualEncoder(nn.Identity(), 3, length=0), "length must be at least 1"),
        (lambda: DualEncoder(nn.Identity(), 3, width=6), "width must be a multiple of 4, the number of heads, got 6"),
        (lambda: E.context(NAMES), r"indices must be \(M,\), got \(3, 2\)"),
        (lambda: E.names(HAND), r"names must be \(C, K\), got \(2,\)"),
        (lambda: E.names(NAMES, draw(2, 8)), r"context must be \(R, M, 8\), got \(2, 8\)"),
        (lambda: E.names(NAMES, draw(1, 2, 4)), r"context must be \(R, M, 8\), got \(1, 2, 4\)"),
        (lambda: E(x, NAMES, draw(1, 4, 8)), "M \\+ K must be at most length = 5, got 6"),
        (lambda: E(x, NAMES, draw(2, 2, 8)), "context must have 1 row or one a picture, 4, got 2"),
        (lambda: contrastive_loss(x, x[:2], torch.tensor(1.0)), r"both be \(B, width\), got \(4, 6\) and \(2, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
