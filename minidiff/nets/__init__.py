"""Networks, called `net(x, t, y)`: x (B, *D), t () or (B,), y (B,) class labels or None; they return the shape of x."""

from minidiff.nets.classifier import Classifier
from minidiff.nets.dual_encoder import DualEncoder, contrastive_loss
from minidiff.nets.embed import Conditioning, time_features
from minidiff.nets.mlp import MLP
from minidiff.nets.stacked import Stacked
from minidiff.nets.transformer import SetTransformer, TokenTransformer
from minidiff.nets.unet import UNet

__all__ = [
    "MLP",
    "Classifier",
    "Conditioning",
    "DualEncoder",
    "SetTransformer",
    "Stacked",
    "TokenTransformer",
    "UNet",
    "contrastive_loss",
    "time_features",
]
