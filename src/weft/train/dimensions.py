"""Field widths by what a trained run's tables use (field-wise dimension optimisation, FDO).

1. Train a model with one width for all fields.
2. For each table, centre its columns and take the principal components of its rows: each category weighs the same, how
   often it occurs does not matter. The width is the smallest k whose components keep the wanted share of the variance,
   at least 1 and at most min(categories, width).
3. Train again from the start with these widths.

Paper: Wang et al., CIKM 2023, https://arxiv.org/abs/2311.04635; its authors recommend 95 %.
Differs: the rows of padding and of unknown values are left out, since neither is a category, and where every value of
the train rows has its own id the unknown row was never trained. The paper does not speak of them.
"""

from pathlib import Path

import tomli_w
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from weft.artifacts import write_atomic
from weft.batch import FIRST_ID
from weft.errors import ConfigError, Unsupported
from weft.models import _registry as registry
from weft.models._dimensions import cumulative_variance, smallest_width, tables_of
from weft.runs import SavedRun


class TableWidth(Struct, frozen=True, kw_only=True):
    """What one table needs.

    Attributes:
        name: Of the table: a field, or the field whose table others share.
        rows: Its rows, padding and unknown included.
        before: Its width in the run.
        after: The width that keeps the wanted share.
    """

    name: str
    rows: int
    before: int
    after: int


class Dimensions(Struct, frozen=True, kw_only=True):
    """The widths that a run's tables need, and what the same model weighs with them.

    Attributes:
        run: The run's folder.
        model: Registry name.
        keep: The share of each table's variance that is kept.
        tables: In the order of the schema.
        parameters: Of the whole model in the run.
        parameters_after: Of the whole model with the new widths.
    """

    run: str
    model: str
    keep: float
    tables: tuple[TableWidth, ...]
    parameters: int
    parameters_after: int

    @property
    def widths(self) -> dict[str, int]:
        """Table to width, as the option `widths` takes them."""
        return {table.name: table.after for table in self.tables}

    def save(self, path: str | Path) -> None:
        """Write the file that `weft train --config` takes, in the place of an older one."""
        text = f"# {self.keep:g} of the variance of each table of {self.model}, by weft dimensions\n"
        write_atomic(Path(path), (text + tomli_w.dumps({"widths": self.widths})).encode())

    def render(self, console: Console) -> None:
        """Print the widths as a table."""
        title = f"{self.model}: widths that keep {self.keep:g} of the variance"
        table = Table(title=Text(title), title_justify="left")
        for column in ("table", "rows", "width", "becomes", "parameters", "become"):
            table.add_column(column, justify="left" if column == "table" else "right")
        for one in self.tables:
            numbers = (one.rows, one.before, one.after, one.rows * one.before, one.rows * one.after)
            table.add_row(Text(one.name), *(f"{number:,}" for number in numbers))
        before = sum(one.rows * one.before for one in self.tables)
        after = sum(one.rows * one.after for one in self.tables)
        table.add_section()
        table.add_row("all tables", "", "", "", f"{before:,}", f"{after:,}")
        table.add_row("whole model", "", "", "", f"{self.parameters:,}", f"{self.parameters_after:,}")
        console.print(table)


def dimensions(run: SavedRun | str | Path, *, keep: float = 0.95) -> Dimensions:
    """The width that each table of a run needs.

    Args:
        run: A run or its folder.
        keep: Share of the variance of each table that its width must keep, above 0 and at most 1.

    Raises:
        ConfigError: `keep` is out of range.
        Unsupported: The model has no option `widths`, or the store has no table.
    """
    if not 0 < keep <= 1:
        raise ConfigError(f"`keep` must be above 0 and at most 1, got {keep:g}; 0.95 is the paper's choice")
    run = run if isinstance(run, SavedRun) else SavedRun.open(run)
    name = run.config.model
    if "widths" not in registry.entry(name).config.__struct_fields__:
        raise Unsupported(
            f"model {name!r} has no option `widths`, so its tables have no widths to choose; "
            "train a model that embeds its fields, such as dcn_v2 or gdcn_p"
        )
    model = run.load_model()
    tables = tables_of(model, registry.config(name, run.config.options))
    if not tables:
        raise Unsupported(f"the run {str(run.path)!r} has no table of categories, so there are no widths to choose")
    widths = tuple(_width(table, tables[table], keep) for table in run.fields.tables() if table in tables)
    options = run.config.options | {"widths": {table.name: table.after for table in widths}}
    return Dimensions(
        run=str(run.path),
        model=name,
        keep=keep,
        tables=widths,
        parameters=_parameters(model),
        parameters_after=_parameters(registry.create(name, run.fields, options, seed=run.config.seed)),
    )


def _width(name: str, parts: list[Tensor], keep: float) -> TableWidth:
    rows, before = parts[0].shape
    after = max(smallest_width(cumulative_variance(part), keep) for part in parts)
    return TableWidth(name=name, rows=rows + FIRST_ID, before=before, after=after)


def _parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())
