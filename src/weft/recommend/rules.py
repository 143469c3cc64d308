"""What may be shown to whom: the filters of a pipeline, compiled for a catalogue.

Dimension key: I items.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import reduce
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from weft.errors import ConfigError, near
from weft.recommend.pipeline import Filter, Only, Seen, Unseen, Without
from weft.recommend.values import Owners, having, id_of, values_of
from weft.schema import UNITS_PER_SECOND, Protocol
from weft.transforms.catalogue import Catalogue
from weft.transforms.encode import Transforms

SEEN = ("hide", "allow", "window")

Ints = NDArray[np.integer[Any]]
Mask = NDArray[np.bool_]


class Moment(NamedTuple):
    """When it is asked, for what the user has had.

    Attributes:
        before: Only events of earlier splits than this one count; None is all events.
        time: For a window; None is after all events.
    """

    before: str | None = None
    time: int | None = None


NOW = Moment()


class Rules:
    """The filters of a pipeline over a catalogue.

    Attributes:
        available: [I] the items that anybody may be shown; None is all of them.
    """

    def __init__(
        self,
        filters: Sequence[Filter],
        transforms: Transforms,
        catalogue: Catalogue,
        item_id: Callable[[str | int], int],
        *,
        gone: Ints | None = None,
    ) -> None:
        self._catalogue, self._schema = catalogue, transforms.schema
        self._unit = UNITS_PER_SECOND[self._schema.roles.time_unit]
        self._seen = next((rule for rule in filters if isinstance(rule, Seen)), None)
        self.protocol = self._schema.protocol if self._seen is None else self._protocol(self._seen)
        sets = {
            rule.feature: values_of(catalogue.items, transforms, rule.feature)
            for rule in filters
            if not isinstance(rule, Seen)
        }
        self._owners = [Owners(sets[rule.feature]) for rule in filters if isinstance(rule, Unseen)]
        masks = []
        for rule in filters:
            if isinstance(rule, Only | Without):
                values = np.array([id_of(transforms, rule.feature, value, item_id(value)) for value in rule.values])
                count = 1 + int(max(values.max(), sets[rule.feature].values.max(initial=0)))
                found = having(sets[rule.feature], values, count)
                masks.append(found if isinstance(rule, Only) else ~found)
        if gone is not None and len(gone):
            left = np.ones(len(catalogue.items), bool)
            left[gone] = False
            masks.append(left)
        self.available: Mask | None = reduce(np.logical_and, masks) if masks else None

    def over(self, catalogue: Catalogue) -> "Rules":
        """The same rules over a catalogue with further users."""
        changed = copy(self)
        changed._catalogue = catalogue
        return changed

    def asked(self, seen: str | None) -> Protocol:
        """The protocol of a request that may say itself what happens to seen items; ConfigError if it cannot."""
        if seen is None:
            hides = self._seen is not None
            return self.protocol if hides else msgspec.structs.replace(self.protocol, seen="allow", window=None)
        if seen not in SEEN:
            raise ConfigError(f"`seen` must be one of {', '.join(SEEN)}, got {seen!r}; {near(seen, SEEN)}")
        if seen == "window" and self.protocol.window is None:
            raise ConfigError("`seen = window` needs `window` (seconds) in [protocol] of the schema or in the pipeline")
        window = self.protocol.window if seen == "window" else None
        return msgspec.structs.replace(self.protocol, seen=seen, window=window)

    def hidden(self, user: int, protocol: Protocol, moment: Moment = NOW) -> Ints:
        """The items that the filters hide from a user of the catalogue; an item may stand there twice."""
        time = self._catalogue.newest if moment.time is None else moment.time
        found = [self._catalogue.seen.hidden(user, protocol, before=moment.before, time=time, unit=self._unit)]
        if self._owners:
            had = self.had(user, moment)
            found += [owners.sharing(had) for owners in self._owners]
        return np.concatenate(found) if len(found) > 1 else found[0]

    def had(self, user: int, moment: Moment = NOW) -> Ints:
        """The items of a user's events that the protocol counts, oldest first, whatever the window."""
        always = msgspec.structs.replace(self.protocol, seen="hide", window=None)
        return self._catalogue.seen.hidden(user, always, before=moment.before)

    def _protocol(self, rule: Seen) -> Protocol:
        protocol = self._schema.protocol
        window = rule.window or protocol.window
        seen = rule.seen or protocol.seen
        if seen == "window" and window is None:
            raise ConfigError(
                "`filters`: `seen = window` needs `window` (seconds), here or in [protocol] of the schema"
            )
        return msgspec.structs.replace(protocol, seen=seen, window=window)
