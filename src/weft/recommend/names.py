"""External ids and ids of a catalogue, also for what arrived after training."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from weft.batch import FIRST_ID, UNKNOWN
from weft.transforms.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Names:
    """A vocabulary, and names after its end; never changes.

    Attributes:
        vocabulary: Of training.
        arrived: Names after its end, in the order of their ids.
    """

    vocabulary: Vocabulary
    arrived: tuple[str | int, ...] = ()
    _ids: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.vocabulary.rows + len(self.arrived)

    def id_of(self, name: str | int) -> int:
        """The id of a name; 1 where nobody knows it. An integer and its decimal text are one name."""
        found = self.vocabulary.id_of(name)
        return found if found >= FIRST_ID else self._ids.get(str(name), UNKNOWN)

    def name_of(self, id: int) -> str | int:
        """The name of an id from 2 on."""
        if id >= self.vocabulary.rows:
            return self.arrived[id - self.vocabulary.rows]
        name = self.vocabulary.value_of(id)
        assert name is not None
        return name

    def with_names(self, names: Iterable[str | int]) -> "Names":
        """With further names, which nobody knows yet, each once."""
        new = tuple(names)
        ids = {str(name): len(self) + place for place, name in enumerate(new)}
        return replace(self, arrived=self.arrived + new, _ids={**self._ids, **ids})
