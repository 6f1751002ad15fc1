"""A drawn world whose causes are known: a ball in a vessel of water, a hole in its wall, and the jet.

A larger ball lifts the water; higher water and a lower hole send the jet further. The scene is that of the data set
"Flow" of Yang et al. 2021; the drawing and the numbers are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.arguments import finite

CONCEPTS = ("ball", "hole", "water", "jet")
# The arrows of `VESSEL`: ball → water, hole → jet, water → jet; each concept's own noise has standard deviation NOISE.
VESSEL = torch.tensor([[0.0, 0.0, 0.8, 0.0], [0.0, 0.0, 0.0, -0.7], [0.0, 0.0, 0.0, 0.9], [0.0, 0.0, 0.0, 0.0]])
NOISE = 0.6


def vessel(u: Tensor) -> Tensor:
    """Draw the concepts u (B, 4) in the order of `CONCEPTS`: images (B, 1, 16, 16) in [−1, 1], edges softened.

    In pixels: the ball's radius is 2.3 + 0.6 u_0, the hole's height 5 + 1.1 u_1, the water's 11 + 1.3 u_2 and the
    reach of the jet 4 + 1.1 u_3, each kept inside the picture, which draws of the model with weights `VESSEL` and noise
    `NOISE` hardly ever leave. Raises ValueError for another shape, NaN or infinity.
    """
    finite("u", u)
    if u.ndim != 2 or u.shape[1] != len(CONCEPTS):
        raise ValueError(f"u must have shape (B, {len(CONCEPTS)}), got {tuple(u.shape)}")
    sizes = zip(u.unbind(1), (2.3, 5.0, 11.0, 4.0), (0.6, 1.1, 1.3, 1.1), strict=True)
    ball, hole, water, jet = ((middle + step * c)[:, None, None] for c, middle, step in sizes)
    ball, hole = ball.clamp(0.8, 4.0), hole.clamp(1.5, 9.0)
    water, jet = water.clamp(2.0, 15.5), jet.clamp(0.6, 7.5)
    side = torch.arange(16).to(u) + 0.5
    x, y = side[None, None, :], 16 - side[None, :, None]  # y is the height above the ground

    inside = _soft(8.0 - x)
    picture = 0.45 * inside * _soft(water - y)
    picture = picture + (1 - picture) * _soft(ball - ((x - 4.0).square() + (y - ball).square()).sqrt())
    wall = ((x - 8.5).abs() < 0.5) * _soft((y - hole).abs() - 0.8)
    run = x - 9.0  # the jet leaves the wall at run = 0 and falls along a parabola to the ground at run = jet
    curve = y - hole * (1 - (run / jet).square())
    distance = curve.abs() / (1 + (2 * hole * run / jet.square()).square()).sqrt()
    stream = (run > 0) * _soft(0.7 - distance)
    return (2 * torch.maximum(torch.maximum(picture, 0.8 * wall), stream) - 1)[:, None]


def _soft(distance: Tensor) -> Tensor:
    """How much of a pixel lies on the positive side of an edge at this signed distance: from 0 to 1 over one pixel."""
    return (distance + 0.5).clamp(0, 1)
