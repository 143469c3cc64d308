"""Losses: raw logits and labels in, one number out."""

from weft.losses.pairwise import bpr
from weft.losses.pointwise import Loss, for_task, logistic, poisson, softmax, squared_error

__all__ = ["Loss", "bpr", "for_task", "logistic", "poisson", "softmax", "squared_error"]
