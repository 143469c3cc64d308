"""How many dimensions the tables of a trained model really use: a principal component analysis of each table.

Dimension key: R rows of a table, E width.
"""

import torch
from msgspec import Struct
from torch import Tensor, nn

from weft.batch import FIRST_ID
from weft.layers import Embedding
from weft.models._contract import embeddings
from weft.models._inputs import InputConfig

ROUNDING = 1e-9


def tables_of(model: nn.Module, config: Struct) -> dict[str, list[Tensor]]:
    """The tables [R, E] whose width the option `widths` sets, by name, without the padding and the unknown row.

    Several layers of a model may have a table of one name; the weights of a linear part are none of them. A model
    without that option has none.
    """
    if not isinstance(config, InputConfig):
        return {}
    found: dict[str, list[Tensor]] = {}
    wide = {id(layer) for path, layer in model.named_modules() if "wide" in path.split(".")}
    for layer in embeddings(model):
        if id(layer) not in wide and _has_widths(layer, config):
            for table in layer.slices:
                found.setdefault(table, []).append(layer.table(table)[FIRST_ID:])
    return found


def _has_widths(layer: Embedding, config: InputConfig) -> bool:
    return all(
        part.weight.shape[1] == config.widths.get(table, config.embedding_dim) for table, part in layer.slices.items()
    )


def cumulative_variance(table_RE: Tensor) -> Tensor:
    """The share of a table's variance in its first 1, 2, ..., min(R, E) principal components, each row weighing 1.

    The columns are centred on their means. Rows that are all alike have no variance: one component keeps all of it.

    >>> cumulative_variance(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])).tolist()
    [0.5, 1.0]
    """
    most = max(1, min(table_RE.shape))
    if len(table_RE) < 2:
        return torch.ones(1, dtype=torch.float64)
    width = table_RE.shape[1]
    covariance_EE = torch.cov(table_RE.double().T).reshape(width, width)
    variance_E = torch.linalg.eigvalsh(covariance_EE).flip(0).clamp(min=0)
    total = variance_E.sum()
    return variance_E[:most].cumsum(0) / total if total > 0 else torch.ones(most, dtype=torch.float64)


def smallest_width(cumulative: Tensor, keep: float) -> int:
    """The smallest number of components that keep this share of the variance.

    >>> smallest_width(torch.tensor([0.9, 1.0]), 0.95), smallest_width(torch.tensor([0.9, 1.0]), 0.9)
    (2, 1)
    """
    lacking = int((cumulative < keep - ROUNDING).sum())
    return min(lacking + 1, len(cumulative))
