"""Why an item stands in a list, and what each stage did: read off the way that the stages left."""

from weft.batch import PADDING
from weft.recommend.answers import StageTrace, Trace
from weft.recommend.final import BOOSTED, DRAWN, PINNED
from weft.recommend.stages import Walk

MARKS = {PINNED: "pinned", BOOSTED: "boosted", DRAWN: "drawn to explore"}


def reasons(walk: Walk, user: int) -> list[tuple[str, ...]]:
    """For each item of a user's list, where it stood after each stage, such as `dcn_v2 #3`, and what was done to it.

    Args:
        walk: The way.
        user: Place of the user in it.
    """
    listed = walk.lists[user]
    places = [
        (
            stage.name.split(".")[-1],
            {item: place for place, item in enumerate(stage.ids[user].tolist(), 1) if item != PADDING},
        )
        for stage in walk.stages
        if stage.skipped is None and stage.kind != "merge"
    ]
    return [
        (
            *(f"{name} #{place[item]}" for name, place in places if item in place),
            *(text for bit, text in MARKS.items() if mark & bit),
        )
        for item, mark in zip(listed.ids.tolist(), listed.mark.tolist(), strict=True)
    ]


def traced(walk: Walk, user: int, seconds: float) -> Trace:
    """What each stage did for a user; the times are those of all users of the walk together."""
    stages = tuple(
        StageTrace(
            name=stage.name,
            milliseconds=1000 * stage.seconds,
            items=int((stage.ids[user] != PADDING).sum()) if stage.ids.size else 0,
            skipped=stage.skipped,
        )
        for stage in walk.stages
    )
    return Trace(stages=stages, milliseconds=1000 * seconds)
