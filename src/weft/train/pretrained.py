"""Start a model from others that were trained alone, each a part of it, such as the two halves of NeuMF."""

from collections.abc import Mapping

from torch import Tensor, nn

from weft.errors import ConfigError
from weft.models import _registry as registry
from weft.models._contract import Assembled
from weft.models.tasks import Tasks
from weft.runs import SavedRun
from weft.train.warm_start import warm_start
from weft.transforms.encode import Transforms


def start_from_parts(model: nn.Module, runs: Mapping[str, str], transforms: Transforms, *, seed: int) -> str:
    """Put the weights of trained parts into a model, in place; says what was taken over.

    The rows of a part's tables go to the rows of the same values, as in `warm_start`; values that the part has not seen
    start as in a fresh one. Of a part that was trained with positions, the network inside counts.

    Args:
        model: What is assembled, alone or inside a wrapper.
        runs: The run folder of each part, by the names of `Assembled.PARTS`.
        transforms: What the model's ids mean.
        seed: Draws the rows that a part does not have.

    Raises:
        ConfigError: A run is of another model than the part, or of other widths, or `tasks` has taken its head out; or
            that of the model.
    """
    if any(isinstance(module, Tasks) for module in model.modules()):
        raise ConfigError(
            "`pretrained` makes an output of those of the parts, and `tasks` puts towers in its place; leave out one "
            "of them"
        )
    whole = next(module for module in model.modules() if isinstance(module, Assembled))
    weights: dict[str, Mapping[str, Tensor]] = {}
    told = []
    for part, path in runs.items():
        run, wanted = SavedRun.open(path), whole.PARTS[part]
        if run.config.model != wanted:
            raise ConfigError(
                f"`pretrained.{part}` must be a run of the model {wanted!r}, and {path!r} is one of "
                f"{run.config.model!r}; train {wanted!r} on this data first"
            )
        if "tasks" in run.config.options:
            raise ConfigError(
                f"`pretrained.{part}` must be a run whose output is its own, and {path!r} was trained with `tasks`, "
                f"which takes it out; train {wanted!r} without `tasks` first"
            )
        own = {key: value for key, value in run.config.options.items() if key not in registry.wrappers()}
        alone = registry.create(wanted, transforms.fields, own, seed=seed)
        told.append(f"{part} from {path}: {warm_start(alone, transforms, run)}")
        weights[part] = alone.state_dict()
    whole.start_from(weights)
    return "; ".join(told)
