"""Training: one loop for every loss, on one CPU, one GPU, or many processes."""

from minidiff.train.device import device, scale, seeded
from minidiff.train.ema import EMA
from minidiff.train.loop import Log, fit
from minidiff.train.streams import label_dropout, noised, progress

__all__ = ["EMA", "Log", "device", "fit", "label_dropout", "noised", "progress", "scale", "seeded"]
