"""How good are the samples, how many are copies, and what did they cost."""

from minidiff.metrics.cost import CountCalls, Timer
from minidiff.metrics.frechet import Floor, frechet_distance, frechet_extrapolated, frechet_floor
from minidiff.metrics.judged import BoundedScore, class_accuracy, inception_score
from minidiff.metrics.neighbours import PrecisionRecall, copy_rate, nearest_distance, precision_recall
from minidiff.metrics.path_error import path_error
from minidiff.metrics.samples import Estimate
from minidiff.metrics.straightness import straightness
from minidiff.metrics.total_variation import (
    frequencies,
    nearest_index,
    total_variation,
    total_variation_floor,
)
from minidiff.metrics.two_sample import mmd, sliced_wasserstein

__all__ = [
    "BoundedScore",
    "CountCalls",
    "Estimate",
    "Floor",
    "PrecisionRecall",
    "Timer",
    "class_accuracy",
    "copy_rate",
    "frechet_distance",
    "frechet_extrapolated",
    "frechet_floor",
    "frequencies",
    "inception_score",
    "mmd",
    "nearest_distance",
    "nearest_index",
    "path_error",
    "precision_recall",
    "sliced_wasserstein",
    "straightness",
    "total_variation",
    "total_variation_floor",
]
