"""The simulated music service: the embedded default data set, with a truth that tests can look up.

Users open the service at their preferred hours, in sessions of a few requests. A request shows a slate of distinct
tracks: popular ones, ones near the user's taste, ones played before, and random ones. A share of the requests is
ordered at random, the others by a logging policy whose score has a chosen correlation with the true relevance; the rest
of that score is chance, or the policy's own liking for some tracks, which has nothing to do with relevance.
The user looks at position p with probability p ** -position_bias (the position-based model of Richardson et al.,
WWW 2007) and plays a track that was seen with probability

    P(play | seen) = sigmoid(base + first order + crosses + taste + familiarity).

The crosses are centred: averaged over any one of its parts a cross is nought, so a model that adds effects of
single columns cannot see it. Gender has no effect. Everything is a function of the configuration, seed included.
"""

# Dimension key: U users, T tracks, R requests, S slate, G genres, H plays remembered, K candidates of one source.

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from weft.errors import ConfigError

__all__ = [
    "AGE_EDGES",
    "HOUR_EDGES",
    "TEMPO_EDGES",
    "Listeners",
    "MusicConfig",
    "MusicWorld",
    "Visit",
    "simulate",
    "write",
]

START = 1_704_067_200  # Monday 2024-01-01 00:00 UTC
DAYS = 56
DAY = 86_400
HOUR = 3_600


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COUNTRIES = _words("Brazil Canada France Germany India Japan Kenya Mexico Poland Sweden")
COUNTRY_SHARES = (0.16, 0.07, 0.10, 0.12, 0.18, 0.11, 0.06, 0.09, 0.06, 0.05)
GENDERS = ("female", "male", "other")
GENDER_SHARES = (0.48, 0.48, 0.04)
DEVICES = ("phone", "desktop", "speaker", "car")
DEVICE_SHARES = (0.45, 0.25, 0.18, 0.12)
GENRES = _words("pop rock hiphop electronic jazz classical folk metal soul reggae latin ambient")

AGE_EDGES = (20, 27, 35, 45, 58)
HOUR_EDGES = (6, 10, 14, 18, 22)
TEMPO_EDGES = (85, 105, 125, 145)

LATE_SHARE = 0.3  # of users and of tracks; they enter over the first LATE_DAYS days
LATE_DAYS = 49
REMEMBERED = 16  # plays that make a track or an artist familiar
BASE = -0.7
CROSS_STRENGTH = {
    ("country", "artist_origin"): 1.1,
    ("age", "genre"): 1.0,
    ("hour", "tempo"): 1.0,
    ("age", "device", "genre"): 1.0,
}
TASTE_STRENGTH = 0.6
FAMILIAR_TRACK = 0.9
FAMILIAR_ARTIST = 0.4
SKIP_SECONDS = 30

ADJECTIVES = _words(
    """Amber Ancient Blue Borrowed Bright Broken Burning Calm Copper Crimson Dancing Distant Electric Empty Endless
    Fading Faithful Falling Fearless Fragile Frozen Gentle Golden Green Hidden Hollow Honest Hungry Idle Ivory Lonely
    Lost Loud Lucky Magnetic Midnight Narrow Northern Open Painted Paper Patient Quiet Restless Rising Rusty Secret
    Silver Sleepless Slow Southern Spinning Stolen Stubborn Sunday Tender Velvet Wandering Winter Yellow"""
)
NOUNS = _words(
    """Anchor Arrow Balcony Bicycle Bridge Candle Canyon Carousel Castle Cloud Comet Compass Corridor Desert Drum
    Engine Feather Ferry Fountain Garden Glacier Harbour Highway Horizon Island Kite Ladder Lantern Letter Lighthouse
    Machine Map Meadow Mirror Mountain Ocean Orchard Painter Pilot Planet Postcard Puzzle Radio Raven River Satellite
    Shadow Signal Staircase Station Stranger Summer Telescope Thunder Ticket Tiger Umbrella Valley Violin Window"""
)
TITLE_FORMS = (
    "{a} {n}",
    "The {a} {n}",
    "My {a} {n}",
    "No More {a} {n}",
    "{a} {n} Blues",
    "{a} {n} at Dawn",
    "{a} {n} in June",
    "{a} {n} After Dark",
    "One {a} {n} Away",
    "Song for the {a} {n}",
    "Goodbye, {a} {n}",
    "{a} {n} by the Sea",
    "Back to the {a} {n}",
    "{a} {n} Waltz",
)
ALBUM_FORMS = ("{n} and {m}", "{n} to {m}", "{n} Without {m}", "The {n} {m} Tapes")
FIRST_NAMES = _words(
    """Ada Anouk Bela Carmen Dario Edda Emeka Farah Goran Hana Ines Ivo Jonas Kaia Lars Leila Malik Mina Nadia Nils
    Oona Pavel Ravi Rosa Samir Selma Taro Uma Vera Yuki"""
)
SURNAME_STARTS = _words("Bal Cor Dal Fen Gar Hol Jor Kel Lor Mar Nor Pel Quin Ros Sel Tar Val Wen Yor Zan")
SURNAME_ENDS = _words("ado bergen elli ford hoven ico lund mira nova oski quist rade stam tano vara")

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_BOUNDS: dict[str, tuple[float, float]] = {
    "rows": (1_000, 10_000_000),
    "seed": (0, 2**63 - 1),
    "users": (20, 1_000_000),
    "tracks": (200, 50_000),
    "policy_correlation": (-1.0, 1.0),
    "policy_favouritism": (0.0, 1.0),
    "random_share": (0.0, 1.0),
    "position_bias": (0.0, 4.0),
    "drift": (0.0, 3.0),
    "slate": (2, 50),
}


class MusicConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the simulated service looks like.

    Attributes:
        rows: impressions, 1,000 to 10,000,000.
        seed: the same configuration and seed give the same world.
        users: how many; None means one for every 100 rows.
        tracks: how many; None grows with the square root of the rows.
        policy_correlation: correlation, within a request, of the score that the logging policy sorts by with the true
            logit: 1 is the best order, 0 an order that knows nothing, -1 the worst.
        policy_favouritism: of the rest of that score, the share of the variance that is a fixed liking for each track;
            what remains is drawn anew each time.
        random_share: share of the requests whose order is uniformly random.
        position_bias: position p is looked at with probability p ** -position_bias.
        drift: how fast tastes turn, in radians a week.
        slate: tracks shown by a request; the last request of the world may be cut to reach `rows`.

    Raises:
        ConfigError: a value is out of its range.
    """

    rows: int = 300_000
    seed: int = 0
    users: int | None = None
    tracks: int | None = None
    policy_correlation: float = 0.5
    policy_favouritism: float = 0.0
    random_share: float = 0.1
    position_bias: float = 0.5
    drift: float = 0.15
    slate: int = 10

    def __post_init__(self) -> None:
        for name, bounds in _BOUNDS.items():
            _check(name, getattr(self, name), bounds)

    def num_users(self) -> int:
        """Count the users of this world.

        >>> MusicConfig(rows=5_000).num_users()
        50
        """
        return max(20, self.rows // 100) if self.users is None else self.users

    def num_tracks(self) -> int:
        """Count the tracks of this world.

        >>> MusicConfig(rows=1_000_000).num_tracks()
        4000
        """
        return min(max(300, int(4 * self.rows**0.5)), 50_000) if self.tracks is None else self.tracks


def _check(name: str, value: float | None, bounds: tuple[float, float]) -> None:
    low, high = bounds
    if value is None and name in ("users", "tracks"):
        return
    kinds = (int,) if isinstance(low, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if isinstance(low, int) else "a number"
        raise ConfigError(f"`{name}` must be {what} in {low}..{high}, got {value!r}; pass a value in this range.")


class MusicWorld(NamedTuple):
    """The tables of one simulated service.

    Attributes:
        users: user_id, age, gender, country, device, joined (epoch seconds).
        tracks: track_id, title, artist, album, artist_origin, genre (the main one), genres (list, main one first),
            year, tempo (beats a minute), duration (seconds), added (epoch seconds).
        impressions: in time order: user_id, track_id, time (epoch seconds, one time a request), request, session,
            position (from 1), played, listen_seconds (0 if not played), skipped (played for less than 30 s), liked,
            hour (0..23, UTC), weekday (0 is Monday), randomised, propensity. The propensity is the probability that
            this track of the slate stands at this position, given `randomised`: 1 / slate where the order was
            random; 1 elsewhere, because the policy sorts by its score and leaves nothing to chance.
        truth: a row for each impression: logit and relevance = P(play | seen), first_order (the part of the logit
            that no cross, taste or familiarity enters: user, track and hour on their own), examination = P(seen),
            seen.
        planted: what was planted, in plain lists: `crosses` (`of` names the parts, `logits` has an axis for each),
            `levels` of each part in the order of its axis, `edges` of the parts that are buckets (a value equal to an
            edge belongs above it), `shares` (the weights of the levels under which a cross is nought along each axis)
            and `examination` by position. The genre of a cross is the main one.
    """

    users: pl.DataFrame
    tracks: pl.DataFrame
    impressions: pl.DataFrame
    truth: pl.DataFrame
    planted: dict[str, Any]


def simulate(config: MusicConfig) -> MusicWorld:
    """Simulate the music service.

    >>> world = simulate(MusicConfig(rows=1_000))
    >>> world.impressions.height, world.users.height, world.tracks.height
    (1000, 20, 300)
    """
    streams = np.random.default_rng(config.seed).spawn(7)
    for_users, for_tracks, for_names, for_effects, for_requests, for_slates, for_policy = streams
    users = _draw_users(for_users, config.num_users())
    tracks = _draw_tracks(for_tracks, config.num_tracks())
    effects = _draw_effects(for_effects, users, tracks)
    liking_T = for_policy.standard_normal(config.num_tracks())
    service = _Service(config, users, tracks, effects, _catalogue(tracks), liking_T)
    requests = _draw_requests(for_requests, users, config)
    log = _serve(for_slates, service, requests)
    return MusicWorld(
        users=_users_frame(users),
        tracks=_tracks_frame(for_names, tracks),
        impressions=_impressions_frame(for_slates, service, requests, log),
        truth=_truth_frame(config, log),
        planted=_planted(config, effects),
    )


def write(world: MusicWorld, folder: Path) -> None:
    """Write the tables of a world as Parquet files.

    interactions.parquet, users.parquet and items.parquet hold the columns of `MusicWorld.impressions`, `users` and
    `tracks`; user_id and track_id join them. truth.parquet holds the rows of `truth` in the order of the interactions;
    it is for tests and must not be named by a schema.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world.impressions.write_parquet(folder / "interactions.parquet")
    world.users.write_parquet(folder / "users.parquet")
    world.tracks.write_parquet(folder / "items.parquet")
    world.truth.write_parquet(folder / "truth.parquet")


# ---- users and tracks ----


@dataclass(frozen=True)
class _Users:
    age: Ints
    gender: Ints
    country: Ints
    device: Ints
    joined_day: Ints  # ascending
    profile: Ints  # which of the hour profiles
    activity: Floats
    mood: Floats
    taste_UG: Floats
    later_taste_UG: Floats


@dataclass(frozen=True)
class _Tracks:
    artist: Ints
    album: Ints  # counted within the artist
    origin: Ints
    genre: Ints
    genres_TG: Bools
    year: Ints
    tempo: Ints
    duration: Ints
    added: Ints  # seconds after the start, ascending
    quality: Floats
    popularity: Floats


def _bucket(values: Ints, edges: tuple[int, ...]) -> Ints:
    return np.searchsorted(np.asarray(edges), values, side="right")


def _entry(rng: np.random.Generator, count: int, span: int) -> Ints:
    """Draw ascending entry times: nought for most, anywhere in 1..span for the late ones."""
    late = int(count * LATE_SHARE)
    return np.concatenate([np.zeros(count - late, dtype=np.int64), np.sort(rng.integers(1, span + 1, late))])


def _draw_users(rng: np.random.Generator, count: int) -> _Users:
    num_genres = len(GENRES)
    return _Users(
        age=np.clip(14 + rng.gamma(2.4, 8.5, count), 14, 85).astype(np.int64),
        gender=rng.choice(len(GENDERS), count, p=GENDER_SHARES),
        country=rng.choice(len(COUNTRIES), count, p=COUNTRY_SHARES),
        device=rng.choice(len(DEVICES), count, p=DEVICE_SHARES),
        joined_day=_entry(rng, count, LATE_DAYS),
        profile=rng.integers(0, len(_HOUR_PROFILES), count),
        activity=rng.lognormal(0.0, 0.7, count),
        mood=rng.normal(0.0, 0.5, count),
        taste_UG=rng.normal(0.0, 1.0, (count, num_genres)),
        later_taste_UG=rng.normal(0.0, 1.0, (count, num_genres)),
    )


def _draw_tracks(rng: np.random.Generator, count: int) -> _Tracks:
    num_artists = count // 8
    artist = rng.choice(num_artists, count, p=_heavy_tail(num_artists))
    album = _rank_within(artist) // 8
    genre = _draw_genre(rng, artist, num_artists)
    quality = rng.normal(0.0, 1.0, count)
    return _Tracks(
        artist=artist,
        album=album,
        origin=rng.choice(len(COUNTRIES), num_artists)[artist],
        genre=genre,
        genres_TG=_draw_genres(rng, genre),
        year=np.minimum(rng.integers(1965, 2022, num_artists)[artist] + 2 * album, 2024),
        tempo=np.clip(rng.normal(115.0, 26.0, count), 55, 200).astype(np.int64),
        duration=np.clip(rng.normal(215.0, 50.0, count), 90, 480).astype(np.int64),
        added=_entry(rng, count, LATE_DAYS * DAY),
        quality=0.5 * quality,
        popularity=rng.permutation(_heavy_tail(count)) * np.exp(0.5 * quality),
    )


def _heavy_tail(count: int) -> Floats:
    weight = (np.arange(count) + 10.0) ** -0.8
    return np.asarray(weight / weight.sum(), dtype=np.float64)


def _rank_within(group: Ints) -> Ints:
    """Count, for each entry, the earlier entries of its group."""
    order = np.argsort(group, kind="stable")
    ordered = group[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return rank


def _draw_genre(rng: np.random.Generator, artist: Ints, num_artists: int) -> Ints:
    """Draw main genres: mostly the artist's own; the first tracks cover every genre, so none is ever out of stock."""
    num_genres = len(GENRES)
    own = rng.integers(0, num_genres, num_artists)[artist]
    genre = np.where(rng.random(len(artist)) < 0.8, own, rng.integers(0, num_genres, len(artist)))
    genre[:num_genres] = np.arange(num_genres)
    return genre


def _draw_genres(rng: np.random.Generator, genre: Ints) -> Bools:
    """Draw genre sets: the main genre and up to two more."""
    genres_TG = np.zeros((len(genre), len(GENRES)), dtype=bool)
    row = np.arange(len(genre))
    genres_TG[row, genre] = True
    for share in (0.5, 0.2):
        genres_TG[row, rng.integers(0, len(GENRES), len(genre))] |= rng.random(len(genre)) < share
    return genres_TG


def _titles(rng: np.random.Generator, count: int) -> list[str]:
    """Give titles, all different; no two tracks share form, adjective and noun."""
    shape = (len(TITLE_FORMS), len(ADJECTIVES), len(NOUNS))
    picks = rng.choice(int(np.prod(shape)), count, replace=False)
    words = zip(*(part.tolist() for part in np.unravel_index(picks, shape)), strict=True)
    return [TITLE_FORMS[form].format(a=ADJECTIVES[a], n=NOUNS[n]) for form, a, n in words]


def _artist_names(rng: np.random.Generator, count: int) -> list[str]:
    """Give artist names, all different: two persons for each band."""
    surnames = [start + end for start in SURNAME_STARTS for end in SURNAME_ENDS]
    persons = [f"{first} {last}" for first in FIRST_NAMES for last in surnames]
    bands = [f"The {a} {n}s" for a in ADJECTIVES for n in NOUNS if not n.endswith(("s", "y"))]
    num_bands = count // 3
    names = [persons[k] for k in rng.choice(len(persons), count - num_bands, replace=False)]
    names += [bands[k] for k in rng.choice(len(bands), num_bands, replace=False)]
    return [names[k] for k in rng.permutation(count)]


def _album_names(rng: np.random.Generator) -> list[str]:
    names = [form.format(n=n, m=m) for form in ALBUM_FORMS for n in NOUNS for m in NOUNS if n != m]
    return [names[k] for k in rng.permutation(len(names))]


# ---- what makes a track relevant ----


@dataclass(frozen=True)
class _Effects:
    user: Floats
    track: Floats
    hour: Floats
    crosses: dict[tuple[str, ...], Floats]
    shares: dict[str, Floats]


_SIZES = {
    "country": len(COUNTRIES),
    "artist_origin": len(COUNTRIES),
    "age": len(AGE_EDGES) + 1,
    "device": len(DEVICES),
    "genre": len(GENRES),
    "hour": len(HOUR_EDGES) + 1,
    "tempo": len(TEMPO_EDGES) + 1,
}


def _draw_effects(rng: np.random.Generator, users: _Users, tracks: _Tracks) -> _Effects:
    single = {name: rng.normal(0.0, 0.3, size) for name, size in _SIZES.items()}
    shares = _shares(users, tracks)
    age, tempo = _bucket(users.age, AGE_EDGES), _bucket(tracks.tempo, TEMPO_EDGES)
    return _Effects(
        user=users.mood + single["country"][users.country] + single["age"][age] + single["device"][users.device],
        track=tracks.quality
        + single["artist_origin"][tracks.origin]
        + single["genre"][tracks.genre]
        + single["tempo"][tempo],
        hour=single["hour"],
        crosses={parts: _draw_cross(rng, parts, shares, strength) for parts, strength in CROSS_STRENGTH.items()},
        shares=shares,
    )


def _shares(users: _Users, tracks: _Tracks) -> dict[str, Floats]:
    """Weigh each level by how often it is about to appear: users by activity, tracks by popularity."""
    hour_bucket = _bucket(np.arange(24), HOUR_EDGES)
    columns = {
        "country": (users.country, users.activity),
        "artist_origin": (tracks.origin, tracks.popularity),
        "age": (_bucket(users.age, AGE_EDGES), users.activity),
        "device": (users.device, users.activity),
        "genre": (tracks.genre, tracks.popularity),
        "hour": (hour_bucket, _HOUR_PROFILES.mean(axis=0)),
        "tempo": (_bucket(tracks.tempo, TEMPO_EDGES), tracks.popularity),
    }
    return {
        name: np.bincount(level, weight, minlength=_SIZES[name]) / weight.sum()
        for name, (level, weight) in columns.items()
    }


def _draw_cross(rng: np.random.Generator, parts: tuple[str, ...], shares: dict[str, Floats], strength: float) -> Floats:
    """Draw a table of logits that is nought on average along each of its axes, with standard deviation `strength`."""
    table = rng.normal(0.0, 1.0, [_SIZES[part] for part in parts])
    if parts == ("country", "artist_origin"):
        table += 2.0 * np.eye(len(COUNTRIES))  # people like artists from home
    weight = np.ones(())
    for axis, part in enumerate(parts):
        table -= np.average(table, axis=axis, weights=shares[part], keepdims=True)
        weight = weight[..., None] * shares[part]
    return np.asarray(table * (strength / np.sqrt((weight * table**2).sum())))


def _planted(config: MusicConfig, effects: _Effects) -> dict[str, Any]:
    names = {"country": COUNTRIES, "artist_origin": COUNTRIES, "device": DEVICES, "genre": GENRES}
    return {
        "crosses": [{"of": list(parts), "logits": table.tolist()} for parts, table in effects.crosses.items()],
        "levels": {part: list(names.get(part, range(size))) for part, size in _SIZES.items()},
        "shares": {part: share.tolist() for part, share in effects.shares.items()},
        "edges": {"age": list(AGE_EDGES), "hour": list(HOUR_EDGES), "tempo": list(TEMPO_EDGES)},
        "examination": _examination(config).tolist(),
    }


def _first_order(effects: _Effects, requests: "_Requests", track_RS: Ints) -> Floats:
    of_request_R = BASE + effects.user[requests.user] + effects.hour[_bucket(requests.hour, HOUR_EDGES)]
    return of_request_R[:, None] + effects.track[track_RS]


def _crossed(service: "_Service", requests: "_Requests", track_RS: Ints) -> Floats:
    users, tracks, user_R = service.users, service.tracks, requests.user
    level = {
        "country": users.country[user_R][:, None],
        "age": _bucket(users.age[user_R], AGE_EDGES)[:, None],
        "device": users.device[user_R][:, None],
        "hour": _bucket(requests.hour, HOUR_EDGES)[:, None],
        "artist_origin": tracks.origin[track_RS],
        "genre": tracks.genre[track_RS],
        "tempo": _bucket(tracks.tempo[track_RS], TEMPO_EDGES),
    }
    total_RS = np.zeros(track_RS.shape)
    for parts, table in service.effects.crosses.items():
        total_RS += table[tuple(level[part] for part in parts)]
    return total_RS


def _taste(users: _Users, user_R: Ints, time_R: Ints, drift: float) -> Floats:
    """Turn each user's taste from the first vector towards the second by `drift` radians a week."""
    angle_R1 = (drift * (time_R - START) / (7 * DAY))[:, None]
    return np.cos(angle_R1) * users.taste_UG[user_R] + np.sin(angle_R1) * users.later_taste_UG[user_R]


def _liking(tracks: _Tracks, taste_RG: Floats, track_RS: Ints) -> Floats:
    """Product of the taste and the track's genres, these scaled to length one. Shape [R, S]."""
    genres_RSG = tracks.genres_TG[track_RS]
    total_RS = (taste_RG[:, None, :] * genres_RSG).sum(axis=2)
    return np.asarray(TASTE_STRENGTH * total_RS / np.sqrt(genres_RSG.sum(axis=2)))


# ---- sessions and requests ----


def _profile(*peaks: tuple[float, float]) -> Floats:
    """Share of listening by hour: a floor and rounded peaks (hour, height) on the clock."""
    hours = np.arange(24)
    weight = 0.15 + sum(height * np.exp(np.cos((hours - at) * np.pi / 12) * 6 - 6) for at, height in peaks)
    return np.asarray(weight / weight.sum())


_HOUR_PROFILES = np.stack(
    [_profile((8, 2.0), (18, 1.5)), _profile((13, 2.0)), _profile((20, 2.5)), _profile((0, 1.5), (22, 1.5))]
)


@dataclass(frozen=True)
class _Requests:
    user: Ints
    session: Ints
    time: Ints
    hour: Ints
    randomised: Bools

    def of(self, rows: slice) -> "_Requests":
        """Take a run of requests."""
        return _Requests(self.user[rows], self.session[rows], self.time[rows], self.hour[rows], self.randomised[rows])


def _draw_requests(rng: np.random.Generator, users: _Users, config: MusicConfig) -> _Requests:
    """Draw sessions of one to six requests and lay the requests out in time order."""
    count = -(-config.rows // config.slate)
    length = np.minimum(rng.geometric(0.35, count), 6)
    length = length[: np.searchsorted(np.cumsum(length), count) + 1]
    user = _draw_listeners(rng, users, len(length))
    start = _draw_starts(rng, users, user)
    gap = rng.integers(240, 900, len(length))
    session = np.repeat(np.argsort(np.argsort(start, kind="stable")), length)
    step = _rank_within(session)
    time = np.repeat(start, length) + step * np.repeat(gap, length)
    order = np.lexsort((step, session, time))[:count]
    time = time[order]
    return _Requests(
        user=np.repeat(user, length)[order],
        session=session[order],
        time=time,
        hour=time // HOUR % 24,
        randomised=rng.random(count) < config.random_share,
    )


def _draw_listeners(rng: np.random.Generator, users: _Users, count: int) -> Ints:
    """Draw the user of each session, by activity and by the days there are after joining."""
    total = np.cumsum(users.activity * (DAYS - users.joined_day))
    return np.asarray(np.searchsorted(total, rng.random(count) * total[-1], side="right"))


def _draw_starts(rng: np.random.Generator, users: _Users, user: Ints) -> Ints:
    joined = users.joined_day[user]
    day = joined + (rng.random(len(user)) * (DAYS - joined)).astype(np.int64)
    by_hour = np.cumsum(_HOUR_PROFILES, axis=1)[:, :-1]
    hour = (rng.random(len(user))[:, None] > by_hour[users.profile[user]]).sum(axis=1)
    return np.asarray(START + day * DAY + hour * HOUR + rng.integers(0, HOUR, len(user)))


# ---- candidates, order, plays ----


class _History:
    """The last plays of each user, in a ring."""

    def __init__(self, num_users: int) -> None:
        self.track_UH = np.full((num_users, REMEMBERED), -1, dtype=np.int64)
        self.count_U = np.zeros(num_users, dtype=np.int64)

    def add(self, user: Ints, track: Ints) -> None:
        """Remember plays, given in time order."""
        slot = (self.count_U[user] + _rank_within(user)) % REMEMBERED
        self.track_UH[user, slot] = track
        np.add.at(self.count_U, user, 1)

    def pick(self, rng: np.random.Generator, user_R: Ints, count: int) -> Ints:
        """Draw remembered tracks, -1 for a user without plays. Shape [R, count]."""
        filled_R1 = np.clip(self.count_U[user_R], 1, REMEMBERED)[:, None]
        slot_RK = (rng.random((len(user_R), count)) * filled_R1).astype(np.int64)
        return self.track_UH[user_R[:, None], slot_RK]

    def familiarity(self, tracks: _Tracks, user_R: Ints, track_RS: Ints) -> Floats:
        """What a remembered track or artist adds to the logit. Shape [R, S]."""
        known_R1H = self.track_UH[user_R][:, None, :]
        same_track = (known_R1H == track_RS[:, :, None]).any(axis=2)
        same_artist = ((tracks.artist[known_R1H] == tracks.artist[track_RS][:, :, None]) & (known_R1H >= 0)).any(axis=2)
        return np.asarray(FAMILIAR_TRACK * same_track + FAMILIAR_ARTIST * same_artist)


@dataclass(frozen=True)
class _Catalogue:
    """The tracks that can be shown, laid out for sampling by popularity: tracks enter in the order of their number."""

    genre: Ints
    added: Ints
    popular: Floats  # running sum of popularity
    shelf: Ints  # tracks by genre, then by number
    shelf_popular: Floats  # running sum of popularity over the shelf

    def available(self, time: int) -> int:
        """Count the tracks that are there at a time."""
        return int(np.searchsorted(self.added, time - START, side="right"))

    def by_popularity(self, rng: np.random.Generator, shape: tuple[int, int], available: int) -> Ints:
        """Draw from the first `available` tracks by popularity."""
        target = rng.random(shape) * self.popular[available - 1]
        return np.asarray(np.minimum(np.searchsorted(self.popular, target, side="right"), available - 1))

    def by_genre(self, rng: np.random.Generator, genre: Ints, available: int) -> Ints:
        """Draw a track of each given genre by popularity, from the first `available` tracks."""
        size = np.bincount(self.genre, minlength=len(GENRES))
        stock = np.bincount(self.genre[:available], minlength=len(GENRES))
        first = (np.cumsum(size) - size)[genre]
        last = first + stock[genre] - 1
        low = np.where(first > 0, self.shelf_popular[first - 1], 0.0)
        target = low + rng.random(genre.shape) * (self.shelf_popular[last] - low)
        place = np.clip(np.searchsorted(self.shelf_popular, target, side="right"), first, last)
        return np.asarray(self.shelf[place])


def _catalogue(tracks: _Tracks) -> _Catalogue:
    shelf = np.argsort(tracks.genre, kind="stable")
    return _Catalogue(
        tracks.genre, tracks.added, np.cumsum(tracks.popularity), shelf, np.cumsum(tracks.popularity[shelf])
    )


def _candidates(
    rng: np.random.Generator, service: "_Service", history: _History, requests: _Requests, taste_RG: Floats
) -> Ints:
    """Draw the distinct tracks of each request: known, near the taste, popular, and random ones. Shape [R, S]."""
    catalogue, slate = service.catalogue, service.config.slate
    num_requests = len(taste_RG)
    available = catalogue.available(int(requests.time[0]))
    random_RS = (rng.integers(0, available, (num_requests, 1)) + np.arange(slate)) % available
    known_RK = history.pick(rng, requests.user, 2 * slate // 10)
    known_RK = np.where(known_RK < 0, random_RS[:, : known_RK.shape[1]], known_RK)
    near_RK = catalogue.by_genre(rng, _draw_liked_genres(rng, taste_RG, 3 * slate // 10), available)
    popular_RK = catalogue.by_popularity(rng, (num_requests, 4 * slate // 10), available)
    return _first_distinct(np.concatenate([known_RK, near_RK, popular_RK, random_RS], axis=1), slate)


def _draw_liked_genres(rng: np.random.Generator, taste_RG: Floats, count: int) -> Ints:
    share_RG = np.exp(1.5 * taste_RG)
    upto_RG = np.cumsum(share_RG, axis=1)
    target_RK = rng.random((len(taste_RG), count)) * upto_RG[:, -1:]
    return np.asarray(np.minimum((target_RK[:, :, None] >= upto_RG[:, None, :]).sum(axis=2), len(GENRES) - 1))


def _first_distinct(values: Ints, count: int) -> Ints:
    """Keep the first `count` different values of each row; each row has so many."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    repeated = np.zeros(values.shape, dtype=bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    keep = np.argsort(repeated, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, keep, axis=1)


def _policy_order(
    rng: np.random.Generator, logit_RS: Floats, liking_RS: Floats, config: MusicConfig, randomised_R: Bools
) -> Ints:
    """Sort by a score that has the given correlation with the logit, or by chance where the order is random."""
    spread = logit_RS.std(axis=1, keepdims=True)
    relevance_RS = (logit_RS - logit_RS.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-12)
    correlation_R1 = np.where(randomised_R, 0.0, config.policy_correlation)[:, None]
    liked_R1 = np.where(randomised_R, 0.0, config.policy_favouritism)[:, None]
    noise_RS = np.sqrt(1.0 - liked_R1) * rng.standard_normal(logit_RS.shape) + np.sqrt(liked_R1) * liking_RS
    score_RS = correlation_R1 * relevance_RS + np.sqrt(1.0 - correlation_R1**2) * noise_RS
    return np.argsort(-score_RS, axis=1, kind="stable")


@dataclass(frozen=True)
class _Service:
    config: MusicConfig
    users: _Users
    tracks: _Tracks
    effects: _Effects
    catalogue: _Catalogue
    liking_T: Floats  # the policy's own


class _Log(NamedTuple):
    track_RS: Ints
    first_order_RS: Floats
    logit_RS: Floats
    seen_RS: Bools
    played_RS: Bools


def _serve(rng: np.random.Generator, service: _Service, requests: _Requests) -> _Log:
    """Answer the requests, a block at a time; a block sees the plays and the catalogue from before it."""
    history = _History(len(service.users.age))
    count, slate = len(requests.user), service.config.slate
    kinds = (np.int32, np.float64, np.float64, np.bool_, np.bool_)
    log = _Log(*(np.empty((count, slate), dtype=kind) for kind in kinds))
    block = max(4, count // 8_000)
    for begin in range(0, count, block):
        rows = slice(begin, begin + block)
        answered = _answer(rng, service, history, requests.of(rows))
        for whole, part in zip(log, answered, strict=True):
            whole[rows] = part
    return log


def _answer(rng: np.random.Generator, service: _Service, history: _History, requests: _Requests) -> _Log:
    """Choose, order and show the slates of one block of requests, and remember what was played."""
    config, user_R = service.config, requests.user
    taste_RG = _taste(service.users, user_R, requests.time, config.drift)
    track_RS = _candidates(rng, service, history, requests, taste_RG)
    first_order_RS = _first_order(service.effects, requests, track_RS)
    logit_RS = first_order_RS + _crossed(service, requests, track_RS)
    logit_RS += _liking(service.tracks, taste_RG, track_RS) + history.familiarity(service.tracks, user_R, track_RS)
    order_RS = _policy_order(rng, logit_RS, service.liking_T[track_RS], config, requests.randomised)
    track_RS = np.take_along_axis(track_RS, order_RS, axis=1)
    first_order_RS = np.take_along_axis(first_order_RS, order_RS, axis=1)
    logit_RS = np.take_along_axis(logit_RS, order_RS, axis=1)
    seen_RS = rng.random(logit_RS.shape) < _examination(config)
    played_RS = seen_RS & (rng.random(logit_RS.shape) < _sigmoid(logit_RS))
    request, place = np.nonzero(played_RS)
    history.add(user_R[request], track_RS[request, place])
    return _Log(track_RS, first_order_RS, logit_RS, seen_RS, played_RS)


def _examination(config: MusicConfig) -> Floats:
    """How probable it is that a position is looked at. Shape [S]."""
    return np.asarray(np.arange(1.0, config.slate + 1) ** -config.position_bias)


def _sigmoid(logit: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-logit))


# ---- after the tables end ----


class Visit(NamedTuple):
    """Somebody opens the service.

    Attributes:
        user: Id, as in the table of users.
        hour: 0 to 23.
        weekday: 0 is Monday.
        day: Since the tables ended.
    """

    user: int
    hour: int
    weekday: int
    day: float


@final
class Listeners:
    """The users of a world after its tables end: they go on listening, their tastes turn, tracks are added.

    An added track takes artist, genres, tempo and duration from one of the world, and pleases more.

    Args:
        config: Of the world.
        turn: Radians by which tastes turn in the week that follows.
        added: How many tracks are added.
        seed: Of visits and of what is played; two of the same seed make the same visits.

    Attributes:
        arrivals: The columns of the added tracks, as in the table of tracks.

    >>> listeners = Listeners(MusicConfig(rows=1_000), added=2)
    >>> visit = listeners.visit(0.5)
    >>> len(listeners.plays(visit, [1, 2, 301])), listeners.arrivals[0]["track_id"]
    (3, 301)
    """

    def __init__(self, config: MusicConfig, *, turn: float = 1.0, added: int = 0, seed: int = 0) -> None:
        world = simulate(config)
        streams = np.random.default_rng(config.seed).spawn(7)
        users, tracks = _draw_users(streams[0], config.num_users()), _draw_tracks(streams[1], config.num_tracks())
        effects = _draw_effects(streams[3], users, tracks)
        visits, self._chance = np.random.default_rng(seed).spawn(2)
        self._visits, self._turn = visits, turn
        like = np.random.default_rng(config.seed).integers(0, config.num_tracks(), added)
        longer = _Tracks(
            **{
                f.name: np.concatenate([getattr(tracks, f.name), getattr(tracks, f.name)[like]])
                for f in fields(_Tracks)
            }
        )
        effects = replace(effects, track=np.append(effects.track, effects.track[like] + 1.0))
        self._service = _Service(config, users, longer, effects, _catalogue(tracks), np.zeros(0))
        self._history = _History(config.num_users())
        self.arrivals = _arrivals(world.tracks, like.tolist())

    def visit(self, day: float) -> Visit:
        """The next visit, on a day since the tables ended, at an hour that its user likes."""
        users = self._service.users
        user = int(_draw_listeners(self._visits, users, 1)[0])
        hour = int(self._visits.choice(24, p=_HOUR_PROFILES[users.profile[user]]))
        return Visit(user + 1, hour, (DAYS + int(day)) % 7, day)

    def plays(self, visit: Visit, tracks: Sequence[int]) -> list[bool]:
        """What a visitor plays of tracks by id, in the order in which they are shown; ConfigError for a strange one."""
        known = len(self._service.tracks.artist)
        strange = [track for track in tracks if not 1 <= track <= known]
        if strange:
            raise ConfigError(
                f"track {strange[0]} was shown and this world has {known:,}; give the service the bundle of this world "
                "and a log of its own, or the same number of added tracks as before"
            )
        relevant = self._relevance(visit, tracks)
        seen = self._chance.random(len(tracks)) < np.arange(1.0, len(tracks) + 1) ** -self._service.config.position_bias
        played = seen & (self._chance.random(len(tracks)) < relevant)
        self._history.add(np.full(played.sum(), visit.user - 1), np.array(tracks)[played] - 1)
        return [bool(one) for one in played]

    def _relevance(self, visit: Visit, tracks: Sequence[int]) -> Floats:
        service, user_R = self._service, np.array([visit.user - 1])
        track_RS = np.array([tracks], np.int64) - 1
        angle = service.config.drift * DAYS / 7 + self._turn * visit.day / 7
        taste_RG = _taste(service.users, user_R, np.array([START + angle * 7 * DAY]), 1.0)
        none = np.zeros(1, np.int64)
        asked = _Requests(user_R, none, none, np.array([visit.hour]), np.zeros(1, bool))
        logit_RS = _first_order(service.effects, asked, track_RS) + _crossed(service, asked, track_RS)
        logit_RS += _liking(service.tracks, taste_RG, track_RS)
        logit_RS += self._history.familiarity(service.tracks, user_R, track_RS)
        return np.asarray(_sigmoid(logit_RS)[0])


def _arrivals(tracks: pl.DataFrame, like: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {**tracks.row(place, named=True), "track_id": tracks.height + number, "title": f"{tracks['title'][place]} II"}
        for number, place in enumerate(like, 1)
    ]


# ---- frames ----


def _users_frame(users: _Users) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": np.arange(1, len(users.age) + 1),
            "age": users.age,
            "gender": np.array(GENDERS)[users.gender],
            "country": np.array(COUNTRIES)[users.country],
            "device": np.array(DEVICES)[users.device],
            "joined": START + DAY * users.joined_day,
        }
    )


def _tracks_frame(rng: np.random.Generator, tracks: _Tracks) -> pl.DataFrame:
    count = len(tracks.artist)
    artists = np.array(_artist_names(rng, int(tracks.artist.max()) + 1))
    albums = np.array(_album_names(rng))
    per_artist = np.bincount(tracks.artist, minlength=len(artists))
    earlier = np.cumsum(per_artist) - per_artist  # keeps the album numbers of different artists apart
    return pl.DataFrame(
        {
            "track_id": np.arange(1, count + 1),
            "title": _titles(rng, count),
            "artist": artists[tracks.artist],
            "album": albums[(earlier[tracks.artist] + tracks.album) % len(albums)],
            "artist_origin": np.array(COUNTRIES)[tracks.origin],
            "genre": np.array(GENRES)[tracks.genre],
            "genres": _genre_lists(tracks),
            "year": tracks.year,
            "tempo": tracks.tempo,
            "duration": tracks.duration,
            "added": START + tracks.added,
        }
    )


def _genre_lists(tracks: _Tracks) -> list[list[str]]:
    return [
        [GENRES[main], *(GENRES[k] for k in np.flatnonzero(member_G) if k != main)]
        for main, member_G in zip(tracks.genre, tracks.genres_TG, strict=True)
    ]


def _impressions_frame(rng: np.random.Generator, service: _Service, requests: _Requests, log: _Log) -> pl.DataFrame:
    config = service.config
    count = len(requests.user)
    played_RS = log.played_RS
    listened_RS = _listen(rng, service.tracks.duration[log.track_RS], log)
    skipped_RS = played_RS & (listened_RS < SKIP_SECONDS)
    liked_RS = played_RS & ~skipped_RS & (rng.random(played_RS.shape) < 0.25 * _sigmoid(log.logit_RS) ** 2)
    columns_RS: dict[str, tuple[npt.NDArray[Any], Any]] = {
        "user_id": (requests.user[:, None] + 1, np.int64),
        "track_id": (log.track_RS.astype(np.int64) + 1, np.int64),
        "time": (requests.time[:, None], np.int64),
        "request": (np.arange(count)[:, None], np.int64),
        "session": (requests.session[:, None], np.int64),
        "position": (np.arange(1, config.slate + 1), np.int8),
        "played": (played_RS, np.int8),
        "listen_seconds": (listened_RS, np.int32),
        "skipped": (skipped_RS, np.int8),
        "liked": (liked_RS, np.int8),
        "hour": (requests.hour[:, None], np.int8),
        "weekday": ((requests.time[:, None] - START) // DAY % 7, np.int8),
        "randomised": (requests.randomised[:, None], np.int8),
        "propensity": (np.where(requests.randomised, 1.0 / config.slate, 1.0)[:, None], np.float64),
    }
    return _frame(columns_RS, played_RS.shape, config.rows)


def _truth_frame(config: MusicConfig, log: _Log) -> pl.DataFrame:
    columns_RS: dict[str, tuple[npt.NDArray[Any], Any]] = {
        "logit": (log.logit_RS, np.float64),
        "relevance": (_sigmoid(log.logit_RS), np.float64),
        "first_order": (log.first_order_RS, np.float64),
        "examination": (_examination(config), np.float64),
        "seen": (log.seen_RS, np.int8),
    }
    return _frame(columns_RS, log.logit_RS.shape, config.rows)


def _frame(columns: dict[str, tuple[npt.NDArray[Any], Any]], shape: tuple[int, ...], rows: int) -> pl.DataFrame:
    """Spread each column over the slates and keep the first `rows` impressions."""
    return pl.DataFrame(
        {name: np.broadcast_to(values.astype(kind), shape).ravel()[:rows] for name, (values, kind) in columns.items()}
    )


def _listen(rng: np.random.Generator, duration_RS: Ints, log: _Log) -> Ints:
    """Draw the seconds listened, longer for what is relevant: 1..duration where played, nought elsewhere."""
    share_RS = 1.4 * _sigmoid(1.0 + log.logit_RS + 1.5 * rng.standard_normal(log.logit_RS.shape))
    seconds_RS = np.clip((share_RS * duration_RS).astype(np.int64), 1, duration_RS)
    return np.where(log.played_RS, seconds_RS, 0)
