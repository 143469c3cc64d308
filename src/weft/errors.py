"""All exceptions that weft raises on purpose.

    WeftError
      SchemaError(ValueError)      a schema that contradicts itself, or a table that contradicts the schema
        UnknownColumn              a column that the schema names is not in the table
      DataError(ValueError)        a table whose values cannot be used: names file, column, row and the mend
      ConfigError(ValueError)      an option or name that does not exist, or a value out of range
      Unsupported(ValueError)      a model asked for what its architecture cannot do
      ArtifactError(RuntimeError)  a folder that is damaged, unfinished, of another version, or in the way
        Locked                     another live process owns the folder
      NotFitted(RuntimeError)      a vocabulary, a scaler or a model is used before it was fitted
      StaleModel(RuntimeError)     a run meets a store or a schema that it was not made from
      Diverged(RuntimeError)       training met a loss that is not finite
      Unavailable(RuntimeError)    a store or a service cannot do it now: its disk is full, it is down
        Overloaded                 more was asked than can be done in time

A message has four parts: which argument or column, what was given, what is allowed, what to do.
"""

import difflib
from collections.abc import Iterable


class WeftError(Exception):
    """Everything that weft raises on purpose."""


class SchemaError(WeftError, ValueError):
    """A schema contradicts itself, or a table contradicts the schema."""


class UnknownColumn(SchemaError):
    """A column that the schema names is not in the table."""


class DataError(WeftError, ValueError):
    """A table holds values that cannot be used."""


class ConfigError(WeftError, ValueError):
    """An option or a name does not exist, or its value is out of range."""


class Unsupported(WeftError, ValueError):
    """A model was asked for what its architecture cannot do."""


class ArtifactError(WeftError, RuntimeError):
    """A folder is damaged, unfinished, of another version, or in the way."""


class Locked(ArtifactError):
    """Another live process owns the folder."""


class NotFitted(WeftError, RuntimeError):
    """Something fitted is needed before it was fitted."""


class StaleModel(WeftError, RuntimeError):
    """A run meets a store or a schema that it was not made from."""


class Diverged(WeftError, RuntimeError):
    """Training met a loss that is not finite."""


class Unavailable(WeftError, RuntimeError):
    """A store or a service cannot do it now; trying again later is right."""


class Overloaded(Unavailable):
    """More was asked than can be done in time."""


def near(name: str, known: Iterable[str]) -> str:
    """Name the nearest of `known` names, or all of them: the last part of a message about an unknown name.

    >>> near("dcnv2", ["fm", "dcn_v2"])
    'did you mean dcn_v2?'
    >>> near("zzz", ["fm", "dcn_v2"])
    'known: dcn_v2, fm'
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known: {', '.join(names)}"
