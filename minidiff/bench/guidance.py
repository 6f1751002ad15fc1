"""What the chapter on guidance stores: two digits on a canvas, tags, contexts, a short training (14 CPU-minutes).

python -m minidiff.bench guidance [regions] [prompts] [short]

`prompts` is in `minidiff.bench.contexts`, `short` in `minidiff.bench.short`. In `regions`:

The network of the digits, on canvases of two, is told two labels and two masks: "tag A is a 3, tag B is a 7, A is here,
B is there". Each place of the canvas asks both tags by attention and hears a mean of what they say. Nothing in this
binds a tag to its place. Two ways of binding are crossed: a `RegionLink`, which adds to a tag what is in its mask, and
masked attention, in which a place hears only the tags in whose mask it lies. Trainings and their judgements are kept in
`build/guidance` and reused, so an interrupted run goes on where it stopped; delete the folder to start over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minidiff import data, zoo
from minidiff.bench import contexts, pictures, results, resume, run_stages, short
from minidiff.denoiser import Denoiser
from minidiff.guidance import RegionLink
from minidiff.nets import Classifier, Conditioning, UNet, time_features
from minidiff.nets.unet import ResidualBlock, Stage
from minidiff.objectives import flow_matching
from minidiff.samplers import sample
from minidiff.times import low_discrepancy
from minidiff.train import EMA, device, fit, noised, progress, seeded

FOLDER = Path("build/guidance")  # what an interrupted run goes on from
BINDINGS = {  # name: (link, masked attention)
    "tags alone": (False, False),
    "link": (True, False),
    "masked attention": (False, True),
    "both": (True, True),
}
SEEDS = (0, 1, 2)  # of a training: the new weights, canvases, times and noise, and of the samples
STEPS = 120  # of training, from the weights of the zoo's digit network
BATCH = 24
CANVASES = 250  # sampled by each network, each with its masks and again with the masks exchanged
CALLS = 10  # of the default sampler
SHOWN = 8  # canvases of the first seed that are stored
CLASSES = 10


def halves() -> Tensor:
    """Masks (2, 2, 8, 16) of the two layouts: tag A on the left and B on the right, and the other way round."""
    left = torch.zeros(8, 16)
    left[:, :8] = 1
    masks = torch.stack([left, 1 - left])
    return torch.stack([masks, masks.flip(0)])


def condition(a: Tensor, b: Tensor, layout: Tensor) -> Tensor:
    """One label for the labels of the two tags (B,) and the layout (B,), 0 or 1: 100 layout + 10 a + b."""
    return 100 * layout + CLASSES * a + b


def exchanged(y: Tensor) -> Tensor:
    """The same tags under exchanged masks."""
    return (y + 100) % 200


def sides(y: Tensor) -> tuple[Tensor, Tensor]:
    """The labels that are asked for on the left and on the right."""
    a, b = y % 100 // CLASSES, y % CLASSES
    return torch.where(y < 100, a, b), torch.where(y < 100, b, a)


class PlacedBlock(nn.Module):
    """A residual block with a conditioning vector of its own in each place: c (B, width, H, W), pooled to its level."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x: (B, channels_in, H', W') → (B, channels, H', W')."""
        block = self.block
        film = block.film(F.adaptive_avg_pool2d(c, x.shape[2:]).movedim(1, -1))
        scale, shift = film.movedim(-1, 1).chunk(2, dim=1)
        h = block.conv1(F.silu(block.norm1(x)))
        return block.skip(x) + block.conv2(F.silu(block.norm2(h) * (1 + scale) + shift))


class PlacedConditioning(nn.Module):
    """SiLU(W₂ SiLU(W₁ γ(t)) + what the tags say), a map (B, width, H, W)."""

    def __init__(self, conditioning: Conditioning) -> None:
        super().__init__()
        self.features, self.time = conditioning.features, conditioning.time

    def forward(self, t: Tensor, said: Tensor, rows: int) -> Tensor:
        """t () or (B,), said (B, width, H, W)."""
        return F.silu(self.time(time_features(t.reshape(-1), self.features))[..., None, None] + said)


class TaggedUNet(nn.Module):
    """A U-Net of labelled digits on canvases of two, told in each place what the tags say there; y of `condition`.

    A tag is h_k = E[y_k], E the network's own table of labels. The features F of a place are a convolution of the
    canvas and of its two coordinates, so that places know where they are. A place's query is linear in F, a tag's key
    in h_k, and the place hears the mean of the h_k with the weights of this attention. `link` adds to h_k a map of the
    mean of F over its mask, by `RegionLink`; with `masked`, a place attends only to the tags in whose mask it lies.
    """

    def __init__(self, net: UNet, link: bool, masked: bool, features: int = 16) -> None:
        super().__init__()
        self.net, self.masked, self.label = net, masked, net.conditioning.label
        width = self.label.embedding_dim
        self.enter = nn.Conv2d(3, features, 3, padding=1)
        self.link = RegionLink(features, width) if link else None
        self.query, self.key = nn.Linear(features, features), nn.Linear(width, features)
        net.conditioning = PlacedConditioning(net.conditioning)
        for stage in [module for module in net.modules() if isinstance(module, Stage)]:
            stage.block = PlacedBlock(stage.block)
        y, x = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-2, 2, 16), indexing="ij")
        self.register_buffer("place", torch.stack([x, y]), persistent=False)
        self.register_buffer("masks", halves(), persistent=False)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """x (B, 1, 8, 16); t () or (B,); y (B,) → (B, 1, 8, 16)."""
        return self.net(x, t, self.said(x, y))

    def said(self, x: Tensor, y: Tensor) -> Tensor:
        """What the tags say in each place: x (B, 1, 8, 16), y (B,) → (B, width, 8, 16)."""
        masks = self.masks[y // 100]
        features = F.silu(self.enter(torch.cat([x, self.place.expand(len(x), -1, -1, -1)], 1)))
        tags = self.label(torch.stack([y % 100 // CLASSES, y % CLASSES], 1))
        if self.link is not None:
            tags = self.link(tags, features, masks)
        scores = torch.einsum("bhwc,bkc->bkhw", self.query(features.movedim(1, -1)), self.key(tags))
        if self.masked:
            scores = scores.masked_fill(masks == 0, -torch.inf)
        return torch.einsum("bkhw,bkc->bchw", scores.softmax(1), tags)


def canvases(images: Tensor, labels: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (x_0, y): two random digits beside each other, the first tag's on the left or on the right."""
    generator = torch.Generator().manual_seed(seed)
    streams = (data.batches(images, labels, batch_size=BATCH, seed=2 * seed + side) for side in (0, 1))
    for (left, a), (right, b) in zip(*streams, strict=True):
        layout = torch.randint(2, (BATCH,), generator=generator).to(a.device)
        first, second = torch.where(layout == 0, a, b), torch.where(layout == 0, b, a)
        yield torch.cat([left, right], -1), condition(first, second, layout)


def trained(binding: str, seed: int) -> Denoiser:
    """The zoo's digit network with the given binding, trained on canvases of training digits."""
    images, labels = (tensor.to(device()) for tensor in data.digits("train"))
    with seeded(seed):
        D = zoo.load("digits-unet")
        D = Denoiser(TaggedUNet(D.net, *BINDINGS[binding]), D.process, D.predicts, D.sigma_data).to(device())
    ema = EMA(D, 0.99)
    logs = fit(
        lambda x0, t, eps, y: flow_matching(D, x0, t, eps, y),
        D.parameters(),
        noised(canvases(images, labels, seed), low_discrepancy(), seed=seed),
        steps=STEPS,
        lr=2e-3,
        warmup=min(50, STEPS // 4),
        ema=ema,
    )
    for _ in progress(logs, STEPS):
        pass
    return ema.module


def asked(seed: int) -> Tensor:
    """Random conditions (CANVASES,) with two different labels."""
    generator = torch.Generator().manual_seed(1000 + seed)
    a = torch.randint(CLASSES, (CANVASES,), generator=generator)
    b = (a + torch.randint(1, CLASSES, (CANVASES,), generator=generator)) % CLASSES
    return condition(a, b, torch.randint(2, (CANVASES,), generator=generator)).to(device())


def shares(judge: Classifier, made: Tensor, y: Tensor) -> dict[str, float]:
    """Shares of canvases with both digits read as y asks, with both in the other's place, and the rest."""
    left, right = (judge(half).argmax(1) for half in made.chunk(2, -1))
    wanted_left, wanted_right = sides(y)
    placed = float(((left == wanted_left) & (right == wanted_right)).double().mean())
    swapped = float(((left == wanted_right) & (right == wanted_left)).double().mean())
    return {"placed": placed, "swapped": swapped, "other": 1 - placed - swapped}


@torch.no_grad()
def judged(D: Denoiser, seed: int) -> dict[str, Any]:
    """Shares as asked, and as asked by exchanged masks from the same noise; the first canvases of both.

    These are the packed pictures (2, SHOWN, 8, 16), with the conditions of the first half.
    """
    judge = zoo.load("digits-classifier").to(device())
    y, generator = asked(seed), torch.Generator().manual_seed(2000 + seed)
    x = torch.randn(CANVASES, 1, 8, 16, generator=generator).to(device())
    made, moved = (sample(D.given(labels), x, CALLS) for labels in (y, exchanged(y)))
    return {
        **shares(judge, made, y),
        "exchanged": shares(judge, moved, exchanged(y)),
        "asked": y[:SHOWN].tolist(),
        "shown": pictures.packed(torch.stack([made[:SHOWN, 0], moved[:SHOWN, 0]])),
    }


def readable() -> float:
    """The share of canvases of held-out digits whose two labels the judge reads."""
    judge = zoo.load("digits-classifier")
    images, labels = data.digits("test")
    with torch.no_grad():
        right = judge(images).argmax(1) == labels
    return float(right.float().mean() ** 2)


def regions() -> None:
    """guidance-regions: four bindings, three trainings each."""
    rows = []
    for binding in BINDINGS:
        for seed in SEEDS:

            def row(binding: str = binding, seed: int = seed) -> dict[str, Any]:
                return judged(trained(binding, seed), seed)

            kept = resume.once(FOLDER / f"{binding.replace(' ', '-')}-{seed}.json", row)
            if seed != SEEDS[0]:
                kept = {name: value for name, value in kept.items() if name not in ("asked", "shown")}
            rows.append({"binding": binding, "seed": seed, **kept})
    stored = {"training_steps": STEPS, "canvases": CANVASES, "calls": CALLS, "readable": readable(), "rows": rows}
    results.save("guidance-regions", stored, "python -m minidiff.bench guidance regions")


STAGES = {"regions": regions, "prompts": contexts.prompts, "short": short.short}


def main(argv: Sequence[str]) -> None:
    """Run the stages named in argv, or all. Raises ValueError for an unknown name."""
    run_stages(STAGES, argv)
