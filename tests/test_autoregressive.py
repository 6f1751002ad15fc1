"""The autoregressive model: the chain rule over a whole vocabulary, no leak from later values, samples, learning."""

import itertools
import math

import pytest
import torch

from minidiff import data, likelihood, train
from minidiff.families.autoregressive import Autoregressive


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def rough(shape, levels, seed=0, scale=2.0, **settings):
    with train.seeded(seed):
        model = Autoregressive(shape, levels, width=24, **settings).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(scale)
    return model


def all_images(d, levels):
    values = torch.linspace(-1, 1, levels).tolist()
    return torch.tensor(list(itertools.product(values, repeat=d)))


@pytest.mark.parametrize(("d", "levels", "depth"), [(1, 5, 1), (2, 3, 2), (4, 3, 3), (6, 2, 2)])
def test_probabilities_of_all_images_sum_to_one(d, levels, depth):
    model = rough((d,), levels, depth=depth)
    with torch.no_grad():
        log_p = model.log_prob(all_images(d, levels)).double()
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float(log_p.std()) > 0.01


def test_log_prob_is_the_product_of_conditionals():
    """Value by value: each factor from the logits of images that agree so far and are zero after."""
    model, x = rough((1, 2, 2), 4), all_images(4, 4)[::7].reshape(-1, 1, 2, 2)
    tokens = model.tokens(x)
    with torch.no_grad():
        total = 0.0
        for i in range(4):
            known = tokens.clone()
            known[:, i:] = 0
            total = total + model.logits(known)[:, i].log_softmax(1).gather(1, tokens[:, i : i + 1])[:, 0]
        torch.testing.assert_close(model.log_prob(x), total)


@pytest.mark.parametrize("depth", [1, 3])
def test_no_leak(depth):
    """A changed value leaves its own logits and all before it as they were, bit for bit, and moves later ones."""
    model = rough((9,), 5, depth=depth)
    tokens = torch.randint(5, (6, 9), generator=gen())
    with torch.no_grad():
        before = model.logits(tokens)
        for i in range(9):
            other = tokens.clone()
            other[:, i] = (other[:, i] + 1 + torch.randint(4, (6,), generator=gen(i))) % 5
            after = model.logits(other)
            assert torch.equal(after[:, : i + 1], before[:, : i + 1])
            for later in range(i + 1, 9):
                assert not torch.equal(after[:, later], before[:, later])


@pytest.mark.parametrize("seed", range(2))
def test_samples_have_the_probabilities_of_the_likelihood(seed):
    """All 9 images of two values: shares of 20,000 draws within 5 standard errors."""
    model, images = rough((2,), 3, seed, scale=4.0), all_images(2, 3)
    with torch.no_grad():
        p = model.log_prob(images).exp()
    made = model.sample(20_000, gen(seed))
    for image, probability in zip(images, p.tolist(), strict=True):
        share = float((made == image).all(1).double().mean())
        assert abs(share - probability) < 5 * math.sqrt(probability * (1 - probability) / 20_000) + 1e-4
    assert float(p.max() / p.min()) > 2


def test_one_generator_a_sample():
    model = rough((1, 2, 3), 4)
    batch = model.sample(3, [gen(1), gen(2), gen(3)])
    assert batch.shape == (3, 1, 2, 3)
    assert torch.equal(batch[1:2], model.sample(1, [gen(2)]))
    assert torch.equal(model.tokens(batch), model.tokens(model.sample(3, [gen(1), gen(2), gen(3)])))


def test_it_learns_two_moons_on_a_board():
    """Points cut to a 16 × 16 board: from 8 bits (uniform) to under 6.3 in 150 steps; few samples off the moons."""

    def board(n, seed):
        return likelihood.quantise(data.two_moons(n, seed=seed) / 2.2, 16)

    with train.seeded(0):
        model = Autoregressive((2,), 16, width=64)
    stream = data.batches(board(4000, 0), batch_size=256, seed=0)
    for _ in train.fit(lambda x: -model.log_prob(x), model.parameters(), stream, steps=150, lr=1e-2):
        pass
    with torch.no_grad():
        bits = -model.log_prob(board(4000, 1)).mean().item() / math.log(2)
    assert bits < 6.3
    seen = {tuple(row) for row in board(40_000, 2).tolist()}
    assert sum(tuple(row) in seen for row in model.sample(500, gen()).tolist()) > 400


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Autoregressive(width=0), ValueError, "width must be at least 1"),
        (lambda: Autoregressive((0, 4)), ValueError, "the number of values of x must be at least 1, got 0"),
        (lambda: Autoregressive(depth=0), ValueError, "depth must be at least 1"),
        (lambda: Autoregressive(levels=1), ValueError, "levels must be at least 2"),
        (lambda: Autoregressive(dropout=1.0), ValueError, "dropout must be"),
        (lambda: rough((4,), 3).log_prob(torch.zeros(2, 5)), ValueError, r"x must have shape \(B, 4\), got \(2, 5\)"),
        (lambda: rough((4,), 3).log_prob(torch.full((2, 4), 0.3)), ValueError, "grey levels"),
        (lambda: rough((4,), 3).log_prob(torch.zeros(2, 4).long()), TypeError, "floating-point"),
        (lambda: rough((4,), 3).logits(torch.full((2, 4), 3)), ValueError, r"tokens must lie in 0…2, got .* to 3"),
        (lambda: rough((4,), 3).logits(torch.full((2, 4), -1)), ValueError, "tokens must lie in"),
        (lambda: rough((4,), 3).logits(torch.zeros(2, 4)), ValueError, "tokens must be int64"),
        (lambda: rough((4,), 3).logits(torch.zeros(2, 3).long()), ValueError, r"shape \(B, 4\)"),
        (lambda: rough((4,), 3).sample(0), ValueError, "n must be at least 1"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
