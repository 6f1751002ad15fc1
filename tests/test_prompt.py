"""Learned prompts: nothing at the start, nothing but the prompt is trained, and what is lost can be found."""

import pytest
import torch
import torch.nn.functional as F

from minidiff.denoiser import Denoiser
from minidiff.guidance import Prompted, PromptEmbedding, autoguidance
from minidiff.nets.mlp import MLP
from minidiff.objectives import denoising_loss
from minidiff.process import LinearVP

HALF = torch.tensor(0.5)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def denoiser(width=16):
    torch.manual_seed(0)
    net = MLP(3, width, 1, classes=4)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Denoiser(net, LinearVP(), "v", angle=(0.3, 0.7))


def prompted(D, start=None, features=None):
    table = D.net.conditioning.label
    return Prompted(D, PromptEmbedding(table.weight[[2]] if start is None else start, features), table)


def test_the_embedding_of_a_label_is_that_label():
    D = denoiser()
    x, two = torch.randn(5, 3, generator=gen()), torch.full((5,), 2)
    P = prompted(D)
    torch.testing.assert_close(P(x, HALF), D(x, HALF, two))
    torch.testing.assert_close(P.given(None)(x, HALF), D(x, HALF, two))
    f = torch.randn(5, 40, generator=gen(1))
    with_shift = prompted(D, features=40)  # W_2 = 0 at the start
    torch.testing.assert_close(with_shift(x, HALF, f), D(x, HALF, two))
    torch.testing.assert_close(
        with_shift.given(f)(x, torch.linspace(0.1, 0.9, 5)), D(x, torch.linspace(0.1, 0.9, 5), two)
    )
    assert (P.process, P.sigma_data, P.coupled, P.angle) == (D.process, D.sigma_data, D.coupled, D.angle)
    plain = D(x, HALF)
    torch.testing.assert_close(autoguidance(P.given(None), D, 3.0)(x, HALF), plain + 3 * (D(x, HALF, two) - plain))


def test_the_shift_by_hand():
    prompt = PromptEmbedding(torch.randn(3, 8, generator=gen()), features=40)
    f = torch.randn(5, 40, generator=gen(1))
    assert prompt.enter.out_features == 2  # 40 // 16
    torch.testing.assert_close(prompt(f), prompt.vectors.expand(5, 3, 8))
    for parameter in prompt.leave.parameters():
        torch.nn.init.normal_(parameter, generator=gen(2))
    made = prompt(f)
    for b in range(5):
        hidden = F.relu(prompt.enter.weight @ f[b] + prompt.enter.bias)
        shift = prompt.leave.weight @ hidden + prompt.leave.bias
        for m in range(3):
            torch.testing.assert_close(made[b, m], prompt.vectors[m] + shift)
    assert PromptEmbedding(torch.zeros(3, 8))().shape == (1, 3, 8)
    assert PromptEmbedding(torch.zeros(1, 8), features=4).enter.out_features == 1


def test_rows_with_a_shift_differ_by_their_features():
    D = denoiser()
    P = prompted(D, features=4)
    torch.nn.init.normal_(P.prompt.leave.weight, generator=gen(2))
    x, f = torch.randn(1, 3, generator=gen()).expand(6, 3), torch.randn(6, 4, generator=gen(1))
    made = P(x, HALF, f)
    for i in range(6):
        torch.testing.assert_close(made[i : i + 1], P(x[i : i + 1], HALF, f[i : i + 1]))
    assert made.std(0).min() > 1e-4


def test_only_the_prompt_is_trained():
    D = denoiser()
    before = {name: value.clone() for name, value in D.state_dict().items()}
    P = prompted(D, features=32)
    assert sum(p.numel() for p in P.parameters()) == 16 + (32 * 2 + 2) + (2 * 16 + 16)
    assert sum(p.numel() for p in prompted(D).parameters()) == 16
    x0, eps, f = (torch.randn(8, n, generator=gen(n)) for n in (3, 3, 32))
    optimiser = torch.optim.Adam(P.parameters(), lr=0.1)
    denoising_loss(P, x0, torch.rand(8, generator=gen()), eps[:, :3], f).mean().backward()
    optimiser.step()
    assert P.prompt.vectors.grad.abs().max() > 0
    for name, parameter in D.named_parameters():
        assert parameter.grad is None, name
        assert not parameter.requires_grad
    for name, value in D.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_lost_label_is_found_again():
    """The vector that makes the frozen network say what it says of label 3, learned from its answers alone."""
    D = denoiser(8)
    P = prompted(D, torch.zeros(1, 8))
    x, t = torch.randn(256, 3, generator=gen()), torch.rand(256, generator=gen(1))
    with torch.no_grad():
        wanted = D(x, t, torch.full((256,), 3))
    optimiser = torch.optim.Adam(P.parameters(), lr=0.05)
    errors = []
    for _ in range(300):
        loss = (P(x, t) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(loss.item())
    assert errors[-1] < 1e-3 * errors[0]


def test_the_table_is_itself_again_after_a_call():
    D = denoiser()
    x, y = torch.randn(2, 3, generator=gen()), torch.tensor([0, 1])
    plain = D(x, HALF, y)
    P = prompted(D, torch.full((1, 16), 5.0))
    P(x, HALF)
    assert torch.equal(D(x, HALF, y), plain)
    with pytest.raises(ValueError, match="t must lie in"):
        P(x, HALF + 3)
    assert torch.equal(D(x, HALF, y), plain)
    assert not D.net.conditioning.label._forward_hooks


def test_refusals():
    D, other = denoiser(), denoiser()
    x = torch.zeros(2, 3)
    shifted, plain = prompted(D, features=4), prompted(D)
    for call, message in (
        (lambda: PromptEmbedding(torch.zeros(8)), r"start must be \(M, width\)"),
        (lambda: PromptEmbedding(torch.full((1, 8), torch.nan)), "start must be finite"),
        (lambda: PromptEmbedding(torch.zeros(1, 8), features=0), "features must be at least 1"),
        (lambda: Prompted(D, plain.prompt, other.net.conditioning.label), "inside D"),
        (lambda: prompted(D, torch.zeros(2, 16)), r"prompt must be \(1, 16\) vectors, got \(2, 16\)"),
        (lambda: prompted(D, torch.zeros(1, 8)), r"prompt must be \(1, 16\) vectors, got \(1, 8\)"),
        (lambda: plain(x, HALF, torch.zeros(2, 4)), "no shift"),
        (lambda: shifted(x, HALF), r"f must be \(B, 4\), got None"),
        (lambda: shifted(x, HALF, torch.zeros(2, 5)), r"f must be \(B, 4\), got \(2, 5\)"),
        (lambda: shifted(x, HALF, torch.zeros(3, 4)), "one row a sample"),
        (lambda: shifted(x, HALF, torch.full((2, 4), torch.nan)), "f must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
