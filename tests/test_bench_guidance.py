"""The benchmark behind the chapter on guidance, at a size that takes seconds: what binds a tag to its place."""

import itertools

import pytest
import torch
from torch import nn

from minidiff import data, zoo
from minidiff.bench import guidance, pictures, results
from minidiff.denoiser import Denoiser
from minidiff.nets import UNet
from minidiff.process import RectifiedFlow


class Judge(nn.Module):
    """Logits that are the first ten pixels."""

    def forward(self, x):
        return x.flatten(1)[:, :10]


def unet(seed=0):
    """A small labelled U-Net with no zero layers, so that everything it is told matters."""
    torch.manual_seed(seed)
    net = UNet(1, 8, channels=8, classes=10)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def tagged(link, masked, seed=0):
    torch.manual_seed(seed)
    net = guidance.TaggedUNet(unet(seed), link, masked).double()
    if link:
        nn.init.normal_(net.link.link.weight)
    return net


@pytest.fixture
def small(monkeypatch, checkout):
    """A checkout with an empty book/results, seventy digits and a small network."""
    for name, value in {"SEEDS": (0, 1), "STEPS": 2, "BATCH": 4, "CANVASES": 6, "CALLS": 2, "SHOWN": 2}.items():
        monkeypatch.setattr(guidance, name, value)
    images, labels = data.digits("all")
    monkeypatch.setattr(data, "digits", lambda split: (images[:70], labels[:70]))
    models = {"digits-unet": lambda: Denoiser(unet(), RectifiedFlow(), "velocity", 0.5), "digits-classifier": Judge}
    monkeypatch.setattr(zoo, "load", lambda name: models[name]())
    return checkout


X = torch.randn(4, 1, 8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
HALF = torch.tensor(0.5, dtype=torch.float64)
A, B, LAYOUT = torch.tensor([3, 0, 9, 5]), torch.tensor([7, 4, 2, 5]), torch.tensor([0, 1, 0, 1])
BINDINGS = list(itertools.product((False, True), repeat=2))


def test_conditions_and_masks():
    y = guidance.condition(A, B, LAYOUT)
    assert y.tolist() == [37, 104, 92, 155]
    left, right = guidance.sides(y)
    assert (left.tolist(), right.tolist()) == ([3, 4, 9, 5], [7, 0, 2, 5])
    left, right = guidance.sides(guidance.exchanged(y))
    assert (left.tolist(), right.tolist()) == ([7, 0, 2, 5], [3, 4, 9, 5])
    masks = guidance.halves()
    assert torch.equal(masks[0].sum(0), torch.ones(8, 16))
    assert masks[0, 0, :, :8].min() == masks[1, 1, :, :8].min() == 1
    assert torch.equal(masks[1], masks[0].flip(0))


@pytest.mark.parametrize(("link", "masked"), BINDINGS)
def test_tags_and_masks_move_together(link, masked):
    """Names of tags do not count: A here and B there is B there and A here. Exchanged masks alone count if bound."""
    net, y = tagged(link, masked), guidance.condition(A, B, LAYOUT)
    made = net(X, HALF, y)
    torch.testing.assert_close(net(X, HALF, guidance.condition(B, A, 1 - LAYOUT)), made)
    moved = net(X, HALF, guidance.exchanged(y))
    if link or masked:
        assert (moved - made).abs().amax((1, 2, 3))[:3].min() > 1e-4
        torch.testing.assert_close(moved[3], made[3])  # two fives
    else:
        torch.testing.assert_close(moved, made)


@pytest.mark.parametrize("link", [False, True])
def test_equal_tags_are_the_label_of_the_network(link):
    """With one label for both, and no link yet, the network is the labelled U-Net, which takes wide pictures too."""
    net = guidance.TaggedUNet(unet(), link, False).double()
    y = guidance.condition(A, A, LAYOUT)
    torch.testing.assert_close(net(X, HALF, y), unet().double()(X, HALF, A))


def test_masked_attention_says_each_tag_in_its_place():
    net, y = tagged(False, True), guidance.condition(A, B, LAYOUT)
    said = net.said(X, y)
    left, right = (net.label(labels)[..., None, None].expand(-1, -1, 8, 8) for labels in guidance.sides(y))
    torch.testing.assert_close(said, torch.cat([left, right], -1))


def test_the_shares():
    made = torch.zeros(4, 1, 8, 16)
    y = guidance.condition(A, B, LAYOUT)[:3]
    for i, (left, right) in enumerate(((3, 7), (0, 4), (9, 9))):  # as asked, exchanged, neither
        made[i, 0].flatten()[[left // 8 * 16 + left % 8, 8 + right // 8 * 16 + right % 8]] = 1
    found = guidance.shares(Judge(), made[:3], y)
    assert found == pytest.approx({"placed": 1 / 3, "swapped": 1 / 3, "other": 1 / 3})


def test_canvases_are_two_digits_with_their_labels(small):
    images, labels = data.digits("train")
    layouts = set()
    for _, (x, y) in zip(range(6), guidance.canvases(images, labels, 0), strict=False):
        assert x.shape == (4, 1, 8, 16)
        for half, wanted in zip(x.chunk(2, -1), guidance.sides(y), strict=True):
            where = (half[:, None] == images).all((2, 3, 4)).double().argmax(1)
            assert torch.equal(labels[where], wanted)
        layouts |= set((y // 100).tolist())
    assert layouts == {0, 1}


def test_regions_are_stored_and_resumed(small, monkeypatch):
    guidance.main(["regions"])
    kept = results.load("guidance-regions")["data"]
    assert [(row["binding"], row["seed"]) for row in kept["rows"]] == [
        (b, s) for b in guidance.BINDINGS for s in (0, 1)
    ]
    for row in kept["rows"]:
        for shares in (row, row["exchanged"]):
            assert shares["placed"] + shares["swapped"] + shares["other"] == pytest.approx(1)
        assert ("shown" in row) == (row["seed"] == 0)
    alone = kept["rows"][0]
    assert alone["exchanged"]["placed"] == alone["swapped"]  # the masks are not heard
    shown = pictures.unpacked(alone["shown"], (2, 2, 8, 16))
    assert torch.equal(shown[0], shown[1])
    assert 0 <= kept["readable"] <= 1
    monkeypatch.setattr(guidance, "trained", None)  # nothing is trained again
    guidance.main(["regions"])
    assert results.load("guidance-regions")["data"] == kept


def test_what_is_asked_are_two_different_digits(small, monkeypatch):
    monkeypatch.setattr(guidance, "CANVASES", 200)
    left, right = guidance.sides(guidance.asked(0))
    assert (left != right).all()
    assert set(left.tolist()) == set(right.tolist()) == set(range(10))
    assert not torch.equal(guidance.asked(0), guidance.asked(1))


def test_stages_have_names(small):
    with pytest.raises(ValueError, match=r"stages are \['regions', 'prompts', 'short'\], got 'region'"):
        guidance.main(["region"])
