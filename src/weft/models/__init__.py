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
from weft.models._registry import Entry, config, create, entry, names, register

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
    "parameter_groups",
    "register",
    "score",
    "set_output_bias",
]
