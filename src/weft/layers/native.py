"""Loops of a training step in C, built on demand; torch's own operations are their twins and do without them.

A small library is compiled once with the C compiler of the machine (`$CC`, cc, gcc or clang) into the user's cache
folder and loaded from there. Without a compiler, on a GPU, or with WEFT_NATIVE=0 in the environment nothing changes
but the speed. A function returns None (or False) where it cannot serve its arguments; the caller takes torch's way.

Dimension key: B rows, D width, U distinct rows looked up, R rows of a table, E width of a table.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-fPIC", "-std=c11")
PARTS = 64  # pieces of a sum over rows: the same sums for any number of threads

_P, _L, _F, _D = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double
SIGNATURES: dict[str, tuple[type | None, list[type]]] = {
    "weft_adam_rows": (None, [_P, _P, _P, _P, _P, _L, _L, _F, _D, _D, _F]),
    "weft_dot": (None, [_P, _P, _L, _L, _P]),
    "weft_dot_backward": (None, [_P, _P, _P, _L, _L, _L, _P, _P]),
    "weft_cross_backward": (None, [_P, _P, _P, _L, _L, _L, ctypes.c_int, _P, _P, _P]),
}


def adam_rows(
    weight_RE: Tensor,
    mean_RE: Tensor,
    square_RE: Tensor,
    ids_U: Tensor,
    grad_UE: Tensor,
    *,
    size: float,
    betas: tuple[float, float],
    eps: float,
) -> bool:
    """One step of Adam on some rows of a table and its moments, in place: w - size m / (sqrt(s) + eps).

    Args:
        weight_RE: The table.
        mean_RE: Its first moments.
        square_RE: Its second moments.
        ids_U: The rows, each once.
        grad_UE: Their gradients.
        size: The learning rate, corrected for the bias of both moments.
        betas: What the moments keep of themselves.
        eps: Added to the root.
    """
    tensors = (weight_RE, mean_RE, square_RE, grad_UE)
    if not all(_ready(t) and t.dtype == torch.float32 for t in tensors):
        return False
    where = _at(weight_RE, mean_RE, square_RE, ids_U, grad_UE)
    _library().weft_adam_rows(*where, len(ids_U), weight_RE.shape[1], size, *betas, eps)
    return True


def dot(x_BD: Tensor, weight_1D: Tensor) -> Tensor | None:
    """The products x w in single precision, [B], of bf16 rows and one row of weights."""
    if not _ready(x_BD) or x_BD.dtype != torch.bfloat16 or len(weight_1D) > 1 or weight_1D.dtype != torch.float32:
        return None
    weight_1D, out_B = weight_1D.contiguous(), torch.empty(len(x_BD))
    _library().weft_dot(*_at(x_BD, weight_1D), *x_BD.shape, *_at(out_B))
    return out_B


def dot_backward(x_BD: Tensor, weight_1D: Tensor, grad_B1: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `dot`: that of x in bf16 [B, D], that of w in single precision [1, D]."""
    weight_1D, grad_B1 = weight_1D.contiguous(), grad_B1.contiguous()
    x_grad_BD, partial = torch.empty_like(x_BD), torch.empty(PARTS, x_BD.shape[1])
    _library().weft_dot_backward(*_at(x_BD, weight_1D, grad_B1), *x_BD.shape, PARTS, *_at(x_grad_BD, partial))
    return x_grad_BD, partial.sum(0, keepdim=True)


def cross_backward(
    grad_BD: Tensor, x0_BD: Tensor, u_BD: Tensor, x0_grad_BD: Tensor | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of y = x0 * u with u = W x + b: the gradients of u, of b, and of x0 with `x0_grad_BD` added, which is changed."""
    if not all(_ready(t) and t.dtype == torch.bfloat16 for t in (grad_BD, x0_BD, u_BD)):
        return None
    u_grad_BD, partial = torch.empty_like(x0_BD), torch.empty(PARTS, x0_BD.shape[1])
    first = x0_grad_BD is None
    x0_grad_BD = torch.empty_like(x0_BD) if x0_grad_BD is None else x0_grad_BD
    where = (*_at(grad_BD, x0_BD, u_BD), *x0_BD.shape, PARTS, int(first), *_at(u_grad_BD, x0_grad_BD, partial))
    _library().weft_cross_backward(*where)
    return u_grad_BD, partial.sum(0).to(u_grad_BD.dtype), x0_grad_BD


def _ready(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dim() == 2 and tensor.is_contiguous() and available()


def _at(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


def available() -> bool:
    """Whether the library is there; the first call builds it."""
    return _found() is not None


def _library() -> ctypes.CDLL:
    library = _found()
    assert library is not None
    return library


@cache
def _found() -> ctypes.CDLL | None:
    if os.environ.get("WEFT_NATIVE") == "0":
        return None
    try:
        library = ctypes.CDLL(str(_built(_own_folder())))
    except (OSError, subprocess.SubprocessError):
        return None
    for name, (returns, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = returns, arguments
    return library


def _own_folder() -> Path:
    """The cache folder; OSError where somebody else could write what is loaded from it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weft"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is open to others")
    return folder


def _built(folder: Path) -> Path:
    """The library for this source, compiler and processor; compiled where it is not there yet."""
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise FileNotFoundError("no C compiler")
    facts = (SOURCE.read_bytes(), FLAGS, compiler, torch.__version__, sorted(torch.cpu.get_capabilities().items()))
    target = folder / f"native-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            compiled, linked = Path(scratch) / "native.o", Path(scratch) / "native.so"
            _run(*shlex.split(compiler), *FLAGS, "-c", str(SOURCE), "-o", str(compiled))
            _run(*shlex.split(compiler), "-shared", str(compiled), *_threads(), "-lm", "-o", str(linked))
            os.replace(linked, target)
    return target


def _threads() -> list[str]:
    """The OpenMP library that torch has loaded, so that both share its threads."""
    mine = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*"))
    return [str(mine[0])] if mine else ["-fopenmp"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
