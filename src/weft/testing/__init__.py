"""For tests of models, ours and yours: worlds with known answers, lopsided weights, the checks of the contract."""

from weft.testing.contract import check, check_fitted, check_ranker, check_retriever, fit, tiny, tiny_graph
from weft.testing.lopsided import make_lopsided
from weft.testing.worlds import Camps, Page, World, cross_only, in_history, position_bias, third_order, two_camps

__all__ = [
    "Camps",
    "Page",
    "World",
    "check",
    "check_fitted",
    "check_ranker",
    "check_retriever",
    "cross_only",
    "fit",
    "in_history",
    "make_lopsided",
    "position_bias",
    "third_order",
    "tiny",
    "tiny_graph",
    "two_camps",
]
