"""The floor of a training step: the matrix products it makes, each made again by itself.

The products are taken from a step as it runs, so that the floor is of the model's own shapes and number formats,
whatever the model.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from _timing import median_seconds

Signature = tuple[Any, ...]


class _Layout(tuple[Any, ...]):
    """Shape, strides and number format of a tensor."""

    __slots__ = ()

    @staticmethod
    def of(tensor: Tensor) -> "_Layout":
        return _Layout((tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device))

    def filled(self) -> Tensor:
        """A tensor of this layout with small random numbers."""
        shape, stride, dtype, device = self
        reach = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        return (0.01 * torch.randn(reach, device=device)).to(dtype).as_strided(shape, stride)


class Products(TorchDispatchMode):
    """Writes down every product (matrix, batched, convolution) that is made while it is active, and its operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Signature] = Counter()
        self.order: list[Signature] = []
        self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled() and func._can_decompose():
            with self:  # in inference mode torch shows what is made of products, such as `linear`, in one piece
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        counted = flop_registry.get(func._overloadpacket)
        base = getattr(torch.ops.aten, func._overloadpacket.__name__.rstrip("_"), None)
        counted = counted or flop_registry.get(base)
        if counted is not None and not any(key == "out" for key in kwargs):
            self.flops += counted(*args, **kwargs, out_val=out)
            signature = (
                func,
                tuple(_packed(a) for a in args),
                tuple(sorted((k, _packed(v)) for k, v in kwargs.items())),
            )
            self.seen[signature] += 1
            self.order.append(signature)
        return out

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)

    def calls(self) -> dict[Signature, Callable[[], object]]:
        """Each product as a call on numbers of its own."""
        return {signature: _call(signature) for signature in self.seen}


def _packed(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Layout.of(value)
    return tuple(value) if isinstance(value, list) else value


def _call(signature: Signature) -> Callable[[], object]:
    func, args, kwargs = signature
    return partial(func, *(_unpacked(a) for a in args), **{name: _unpacked(value) for name, value in kwargs})


def _unpacked(value: Any) -> Any:
    return value.filled() if isinstance(value, _Layout) else value


class Floor:
    """The products of one call of `step`, ready to be timed between other work.

    Attributes:
        flops: Operations of all products.
        products: How many there are.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        with Products() as products:
            step()
        self.flops, self.products = products.flops, len(products.order)
        self._calls = products.calls()
        self._seen, self._order = products.seen, products.order

    def seconds(self, repeats: int) -> tuple[float, float]:
        """Time of the products: each repeated alone, and all of them once in the order of the step.

        Repeated alone a product finds its operands in the cache, in a step it does not.
        """
        with torch.inference_mode():
            alone = sum(self._seen[s] * median_seconds(_waited(call), repeats) for s, call in self._calls.items())
            in_order = median_seconds(_waited(self.once), repeats)
        return alone, in_order

    def once(self) -> None:
        """All products once, in the order of the step."""
        with torch.inference_mode():
            for signature in self._order:
                self._calls[signature]()


def _waited(call: Callable[[], object]) -> Callable[[], object]:
    """The call, and the wait for a GPU if one is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return call

    def both() -> None:
        call()
        torch.cuda.synchronize()

    return both
