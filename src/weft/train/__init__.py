"""Training: the recipe, the loop, updates, precision, training states, and the run that joins them.

The package can be called: `weft.train(store, "dcn_v2", out="run")` is `weft.train.run.train`, also after an import of
one of its modules.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from weft.train.run import train

        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
