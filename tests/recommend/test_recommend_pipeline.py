"""Pipelines as values and as TOML: the same thing; wrong ones are told by path, with near names."""

import pytest

from weft.errors import ConfigError
from weft.recommend.index import HNSW
from weft.recommend.pipeline import (
    Boost,
    Cap,
    Explore,
    Mix,
    Mmr,
    Only,
    Pin,
    Pipeline,
    Rank,
    Seen,
    Source,
    Unseen,
    Without,
    dumps,
    load,
    loads,
)

EVERYTHING = Pipeline(
    name="all of it",
    sources=(Source(run="tower", quota=400, index=HNSW(), budget_ms=20.0), Source(run="popularity")),
    filters=(
        Seen(seen="window", window=60.0),
        Unseen(feature="artist"),
        Only(feature="genre", values=("jazz", "folk")),
        Without(feature="item", values=(7,)),
    ),
    ranking=(Rank(run="lr", keep=50), Rank(run="dcn", budget_ms=30.0)),
    final=(
        Boost(feature="artist", values=("ann",), add=0.5),
        Cap(feature="artist", most=2),
        Mmr(by="tower", balance=0.8, depth=100),
        Mix(feature="genre", balance=0.25),
        Explore(share=0.1, pool=20),
        Pin(items=("x", 3), at=2, budget_ms=1.5),
    ),
)


def test_a_pipeline_survives_its_file() -> None:
    assert loads(dumps(EVERYTHING)) == EVERYTHING
    least = Pipeline(sources=(Source(run="mf"),))
    assert loads(dumps(least)) == least
    assert least.filters == (Seen(),)
    assert loads('filters = []\n[[sources]]\nrun = "mf"\n').filters == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[source]]\nrun = "a"', "has no 'source'; did you mean sources"),
        ("", "missing required field `sources`"),
        ("sources = []", r"length >= 1.*\$\.sources"),
        ('[[sources]]\nrun = "a"\nquta = 3', r"`sources\[0\]` has no 'quta'; did you mean quota"),
        ('[[sources]]\nrun = "a"\nquota = 0', r">= 1.*\$\.sources\[0\]\.quota"),
        ('[[sources]]\nrun = "a"\n[[ranking]]\nrun = "b"\n[[ranking]]\nkep = 3', r"`ranking\[1\]` has no 'kep'.*keep"),
        ('[[sources]]\nrun = "a"\n[[final]]\nkind = "mmrr"', r"`final\[0\]` has the kind 'mmrr'; did you mean mmr"),
        ('[[sources]]\nrun = "a"\n[[final]]\nfeature = "x"', r"`final\[0\]` has no `kind`; known: boost, cap"),
        (
            '[[sources]]\nrun = "a"\n[[filters]]\nkind = "seen"\nsen = "hide"',
            r"`filters\[0\]` has no 'sen'; did you mean seen",
        ),
        ('[[sources]]\nrun = "a"\n[[filters]]\nkind = "seen"\nseen = "hid"', r"\$\.filters\[0\]\.seen"),
        ('[[sources]]\nrun = "a"\n[[final]]\nkind = "cap"\nfeature = "x"\nmost = 1.5', r"\$\.final\[0\]\.most"),
        ('[[sources]]\nrun = "a"\n[[sources]]\nrun = "a"', "the run 'a' stands there twice"),
        (
            '[[sources]]\nrun = "a"\n[[final]]\nkind = "explore"\nshare = 0.1\n[[final]]\nkind = "mmr"\nby = "a"',
            r"`final\[0\]`: after `explore` only `pin`.*move `mmr` before it",
        ),
        ("[[sources]]\nrun = ", "pipeline.toml"),
    ],
)
def test_what_is_wrong_is_said_by_path(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        loads(text, source="pipeline.toml")
    assert str(error.value).startswith("pipeline.toml")


def test_a_file_that_is_not_there(tmp_path: object) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the pipeline.*nothing\.toml"):
        load(f"{tmp_path}/nothing.toml")
