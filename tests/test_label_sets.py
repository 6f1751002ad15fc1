"""Sets of labels: the loss of every order against naive products, self-ordering, exhaustive beams, relabelling."""

import itertools
import math

import pytest
import torch

from minidiff.apps.discrete import beam_search, extreme_losses, ordered_loss, self_ordered_loss

K = 4


def model_of(seed):
    """Logits that are a fixed random function of the set that was said: a table of 2^K rows."""
    table = 2 * torch.randn(2**K, K + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lambda said: table[said.long() @ (2 ** torch.arange(K))]


def naive(model, order):
    """−log p of saying the labels in this order and stopping, one call and one softmax at a time."""
    said, loss = torch.zeros(1, K, dtype=torch.bool), 0.0
    for k in (*order, K):
        weights = model(said)[0].exp()
        pool = [j for j in range(K + 1) if j == K or not said[0, j]]
        loss -= math.log(float(weights[k]) / sum(float(weights[j]) for j in pool))
        if k < K:
            said[0, k] = True
    return loss


LABELS = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_by_naive_products(seed):
    model, keys = model_of(seed), torch.randn(4, K, generator=torch.Generator().manual_seed(seed))
    loss, rank = ordered_loss(model, LABELS, keys)
    for row in range(4):
        order = sorted((k for k in range(K) if LABELS[row, k]), key=lambda k: float(keys[row, k]))
        assert float(loss[row]) == pytest.approx(naive(model, order))
        assert [int(r) for r in rank[row]] == [order.index(k) if k in order else -1 for k in range(K)]


@pytest.mark.parametrize("seed", range(5))
def test_own_order_is_greedy_and_between_the_extremes(seed):
    model = model_of(seed)
    loss, rank = self_ordered_loss(model, LABELS)
    said, order = torch.zeros(1, K, dtype=torch.bool), []
    while len(order) < 3:
        scores = model(said)[0]
        best = max((k for k in (0, 2, 3) if k not in order), key=lambda k: float(scores[k]))
        order.append(best)
        said[0, best] = True
    assert [int(rank[0, k]) for k in order] == [0, 1, 2]
    assert float(loss[0]) == pytest.approx(naive(model, order))
    least, mean, greatest, of_set = (float(v[0]) for v in extreme_losses(model, LABELS[:1]))
    assert least <= float(loss[0]) <= greatest and least < mean < greatest
    assert of_set < least and mean > of_set + math.log(6)


def test_greedy_is_not_always_the_best_order():
    gaps = [
        float((self_ordered_loss(m, LABELS[:1]).loss - extreme_losses(m, LABELS[:1]).least)[0])
        for m in map(model_of, range(10))
    ]
    assert min(gaps) < 1e-12 < 0.1 < max(gaps)


def test_extremes_by_naive_products():
    model = model_of(7)
    for row, labels in ((0, (0, 2, 3)), (1, (1,)), (2, ()), (3, (0, 1, 2, 3))):
        losses = [naive(model, order) for order in itertools.permutations(labels)]
        answer = [float(v) for v in extreme_losses(model, LABELS[row : row + 1])]
        of_set = -math.log(sum(math.exp(-v) for v in losses))
        assert answer == pytest.approx([min(losses), sum(losses) / len(losses), max(losses), of_set])


def test_a_model_without_preferences_sees_no_order():
    """Logits that ignore what was said: every order has the same product of pools only if all labels are alike."""

    def alike(said):
        return torch.zeros(len(said), K + 1)

    least, mean, greatest, of_set = (float(v[0]) for v in extreme_losses(alike, LABELS[:1]))
    assert least == pytest.approx(greatest) == pytest.approx(mean) == pytest.approx(of_set + math.log(6))
    assert mean == pytest.approx(math.log(5 * 4 * 3 * 2))


def test_sets_are_normalised():
    """Σ over all 2^K sets of exp(−loss of the set) is 1."""
    model, total = model_of(3), 0.0
    for row in itertools.product([False, True], repeat=K):
        total += math.exp(-float(extreme_losses(model, torch.tensor([row])).of_set))
    assert total == pytest.approx(1)


def test_relabelling_changes_nothing():
    """Permuting the names of the labels, in the model and in the data, leaves every loss alone."""
    model, order = model_of(2), torch.tensor([2, 0, 3, 1])

    def renamed(said):
        back = model(said[:, order.argsort()])
        return torch.cat([back[:, :K][:, order], back[:, K:]], 1)

    names = LABELS[:, order]
    torch.testing.assert_close(self_ordered_loss(renamed, names).loss, self_ordered_loss(model, LABELS).loss)
    for a, b in zip(extreme_losses(renamed, names[:1]), extreme_losses(model, LABELS[:1]), strict=True):
        torch.testing.assert_close(a, b)


def test_beam_is_exhaustive_when_wide_and_greedy_when_narrow():
    model = model_of(5)
    histories = [order for c in range(K + 1) for order in itertools.permutations(range(K), c)]
    found = beam_search(model, K, len(histories))
    ranked = sorted(((-naive(model, order), order) for order in histories), reverse=True)
    assert [order for _, order in found] == [order for _, order in ranked]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in ranked])
    for width in (1, 2, 8):
        best = beam_search(model, K, width)
        assert len(best) <= width and best[0][0] <= found[0][0] + 1e-12
        assert all(len(set(order)) == len(order) for _, order in best)


def test_gradients_reach_the_model():
    weight = torch.zeros(K + 1, dtype=torch.float64, requires_grad=True)
    self_ordered_loss(lambda said: weight.expand(len(said), -1), LABELS).loss.sum().backward()
    assert float(weight.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: self_ordered_loss(m, LABELS.long()),
            r"labels must be bool of shape \(B, K\), got torch.int64 \(4, 4\)",
        ),
        (lambda m: self_ordered_loss(m, [True]), "labels must be bool .* got list"),
        (lambda m: ordered_loss(m, LABELS, torch.zeros(4, 3)), "order and labels must have the same shape"),
        (lambda m: ordered_loss(m, LABELS, torch.full((4, K), math.nan)), "order must be finite"),
        (lambda m: extreme_losses(m, LABELS), r"same number ≤ 6 of labels, got \[3, 1, 0, 4\]"),
        (
            lambda m: self_ordered_loss(lambda said: torch.zeros(len(said), K), LABELS),
            r"model must return \(B, K \+ 1\) = \(4, 5\), got \(4, 4\)",
        ),
        (lambda m: self_ordered_loss(lambda said: m(said) * math.nan, LABELS), "logits without NaN"),
        (lambda m: self_ordered_loss(lambda said: m(said) - math.inf, LABELS), "with one above −∞ among those not yet"),
        (lambda m: beam_search(m, K, 0), "width must be at least 1, got 0"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(model_of(0))
