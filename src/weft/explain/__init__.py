"""Explanations: what a trained model looks at, as numbers and as a page.

The package can be called: `weft.explain("run", out="why")` is `weft.explain.explainer.explain`, also after an import of
one of its modules.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from weft.explain.explainer import explain

        return explain(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
