"""Losses: raw logits and labels in, one number out."""

from weft.losses.frequency import ExactFrequency, StreamingFrequency, together
from weft.losses.full import full_softmax
from weft.losses.fused import same_items, softmax_of_vectors
from weft.losses.pairwise import bpr
from weft.losses.pointwise import Loss, for_task, logistic, poisson, softmax, squared_error
from weft.losses.sampled import accidental_hits, corrected, hardest, refined_softmax, sampled_softmax, twins, without

__all__ = [
    "ExactFrequency",
    "Loss",
    "StreamingFrequency",
    "accidental_hits",
    "bpr",
    "corrected",
    "for_task",
    "full_softmax",
    "hardest",
    "logistic",
    "poisson",
    "refined_softmax",
    "same_items",
    "sampled_softmax",
    "softmax",
    "softmax_of_vectors",
    "squared_error",
    "together",
    "twins",
    "without",
]
