"""Guidance: denoisers made of denoisers, so that a condition is obeyed more, or in one place, or at some noise only.

Everything here maps denoisers to a denoiser x̂_0 of (x, t), which any sampler takes. The scale is w: 0 is
unconditional, 1 conditional, above 1 sharper. No such x̂_0 is that of a sharpened density; `corrected` samples one.
"""

from minidiff.guidance.conditional import Conditional
from minidiff.guidance.corrector import corrected
from minidiff.guidance.gradient import ClassifierGuided, classifier
from minidiff.guidance.projected import projected
from minidiff.guidance.prompt import Prompted, PromptEmbedding
from minidiff.guidance.region import Regional, RegionLink, regional
from minidiff.guidance.rescaled import rescaled
from minidiff.guidance.scale import Guided, autoguidance, cfg, extrapolate

__all__ = [
    "ClassifierGuided",
    "Conditional",
    "Guided",
    "PromptEmbedding",
    "Prompted",
    "RegionLink",
    "Regional",
    "autoguidance",
    "cfg",
    "classifier",
    "corrected",
    "extrapolate",
    "projected",
    "regional",
    "rescaled",
]
