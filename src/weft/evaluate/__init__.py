"""Evaluation: protocols, the evaluator, reports and predictions.

The package can be called: `weft.evaluate("run")` is `weft.evaluate.evaluator.evaluate`, also after an import of one of
its modules.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from weft.evaluate.evaluator import evaluate

        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
