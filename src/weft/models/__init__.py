"""Models by name: one architecture one file; `create` builds one from `Fields` and its options."""

from weft.models._contract import (
    Explains,
    FieldMap,
    Fitted,
    Ranker,
    Represents,
    Retriever,
    Source,
    embeddings,
    parameter_groups,
    score,
    set_output_bias,
)
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
    "Source",
    "config",
    "create",
    "embeddings",
    "entry",
    "names",
    "option_names",
    "parameter_groups",
    "register",
    "register_wrapper",
    "score",
    "search_space",
    "set_output_bias",
]
