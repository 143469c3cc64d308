"""Building blocks that speak tensors and ints only: they know neither schema nor batch."""

from weft.layers.attention import Encoder, FieldAttention
from weft.layers.convolution import SlotConvolution
from weft.layers.cross import Cross, CrossNet
from weft.layers.dhen import AttentionSlots, ConvolutionSlots, CrossSlots, DHENLayer, DotSlots
from weft.layers.dot import Dots
from weft.layers.dropout import Dropout
from weft.layers.embedding import Embedding, Gathered, Slice, Touched, rows_of, sum_duplicates
from weft.layers.experts import MixtureOfExperts, Towers
from weft.layers.fm import pairwise
from weft.layers.gated_cross import GatedCrossNet
from weft.layers.low_rank_cross import LowRankCrossNet, MixCrossNet
from weft.layers.mlp import MLP, Head, linear
from weft.layers.ngcf import NGCFLayer
from weft.layers.numeric import Numeric
from weft.layers.pooling import pool
from weft.layers.position import KnownCurve, ShallowTower, both
from weft.layers.precision import lowered
from weft.layers.propagation import Propagation, mean_weights, symmetric_weights
from weft.layers.sage import SAGELayer
from weft.layers.slot_linear import SlotLinear
from weft.layers.target_attention import TargetAttention
from weft.layers.tower import Tower
from weft.layers.vector_cross import VectorCrossNet
from weft.layers.walks import visited

__all__ = [
    "MLP",
    "AttentionSlots",
    "ConvolutionSlots",
    "Cross",
    "CrossNet",
    "CrossSlots",
    "DHENLayer",
    "DotSlots",
    "Dots",
    "Dropout",
    "Embedding",
    "Encoder",
    "FieldAttention",
    "GatedCrossNet",
    "Gathered",
    "Head",
    "KnownCurve",
    "LowRankCrossNet",
    "MixCrossNet",
    "MixtureOfExperts",
    "NGCFLayer",
    "Numeric",
    "Propagation",
    "SAGELayer",
    "ShallowTower",
    "Slice",
    "SlotConvolution",
    "SlotLinear",
    "TargetAttention",
    "Touched",
    "Tower",
    "Towers",
    "VectorCrossNet",
    "both",
    "linear",
    "lowered",
    "mean_weights",
    "pairwise",
    "pool",
    "rows_of",
    "sum_duplicates",
    "symmetric_weights",
    "visited",
]
