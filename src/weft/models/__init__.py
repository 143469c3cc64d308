"""Models by name: one architecture one file; `create` builds one from `Fields` and its options."""

from weft.models._contract import (
    Explains,
    FieldMap,
    Fitted,
    Ranker,
    Represents,
    Retriever,
    ScoresAll,
    Source,
    Wraps,
    embeddings,
    parameter_groups,
    score,
    served,
    set_output_bias,
    unwrapped,
)
from weft.models._inputs import history_weights
from weft.models._registry import Entry, config, create, entry, names, option_names, register, register_wrapper
from weft.models._search import search_space

__all__ = [
    "Entry",
    "Explains",
    "FieldMap",
    "Fitted",
    "Ranker",
    "Represents",
    "Retriever",
    "ScoresAll",
    "Source",
    "Wraps",
    "config",
    "create",
    "embeddings",
    "entry",
    "history_weights",
    "names",
    "option_names",
    "parameter_groups",
    "register",
    "register_wrapper",
    "score",
    "search_space",
    "served",
    "set_output_bias",
    "unwrapped",
]
