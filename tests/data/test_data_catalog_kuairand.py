"""The KuaiRand loader: repeated rows, histories that must end before the log, the split by day, four protocols."""

import lzma
from pathlib import Path

import polars as pl
import pytest
from catalog_for_tests import check, read, real, real_data

import weft
from weft.data import catalog
from weft.data.catalog import kuairand
from weft.errors import DataError
from weft.schema import Sequence

MONDAY = 1_650_816_000_000  # 25 April, 0:00 UTC+8
HOUR = 3_600_000
DAY = 24 * HOUR


def write(folder: Path) -> Path:
    """Two users and three videos; the third row repeats the second, user 1's history ends after the fourth."""
    folder.mkdir(parents=True)
    rows = [
        (0, 10, MONDAY + HOUR, 1, 0),
        (0, 11, MONDAY + 2 * HOUR, 0, 0),
        (0, 11, MONDAY + 2 * HOUR, 1, 1),
        (1, 10, MONDAY + HOUR, 1, 1),
        (1, 11, MONDAY + 4 * DAY, 0, 0),
        (1, 12, MONDAY + 5 * DAY - 1, 1, 0),
        (2, 12, MONDAY + 5 * DAY, 1, 1),
    ]
    columns = ["user_id", "video_id", "time_ms", "is_click", "long_view"]
    log = pl.DataFrame(rows, schema=columns, orient="row").with_columns(tab=pl.lit(1), is_like=pl.lit(0))
    log.write_parquet(folder / "val.parquet")
    history = {"user_id": [0, 1], "last_time_ms": [MONDAY - HOUR, MONDAY + HOUR]}
    lists = {"watch_seq": [[10, 12], [11]], "long_watch_seq": [[12], []], "like_seq": [[], []]}
    pl.DataFrame(history | lists, schema_overrides={"like_seq": pl.List(pl.Int64)}).write_parquet(
        folder / "user_sequences.parquet"
    )
    users = {"user_id": [0, 1, 2], **{name: [0, 1, 0] for name in kuairand.USER_CODES}}
    users |= {name: [5, 6, 7] for name in kuairand.USER_NUMBERS} | {"onehot_feat4": [1.0, None, 2.0]}
    videos = {"video_id": [10, 11, 12], **{name: ["a", "b", "a"] for name in kuairand.VIDEO_CODES}}
    videos |= {"music_type": [9.0, None, 4.0], "video_duration": [1500.0, None, 2.0], "tag": ["1,2", None, "2"]}
    for name, columns in ((kuairand.USERS, users), (kuairand.VIDEOS, videos)):
        (folder / f"{name}.xz").write_bytes(lzma.compress(pl.DataFrame(columns).write_csv().encode()))
    return folder


def test_rows_are_once_after_the_history_and_split_by_day(tmp_path: Path) -> None:
    out = catalog.get("kuairand", tmp_path / "out", source=write(tmp_path / "kuairand"))
    check(out)
    rows = read(out)
    assert rows.select("user_id", "video_id", "hour", "is_click", "split").rows() == [
        (0, 10, 1, 1, "train"),
        (0, 11, 2, 0, "train"),
        (1, 11, 0, 0, "valid"),
        (1, 12, 23, 1, "valid"),
        (2, 12, 0, 1, "test"),
    ]
    text = (out / "README.txt").read_text()
    assert "1 rows of the log repeat" in text
    assert "1 rows that are not later than their user's history are left out" in text


def test_users_have_their_histories_and_videos_no_statistics(tmp_path: Path) -> None:
    out = catalog.get("kuairand", tmp_path / "out", source=write(tmp_path / "kuairand"))
    found = check(out)
    users, videos = read(out, "users"), read(out, "items")
    assert users.select("user_id", "watched", "watched_long").rows() == [
        (0, [10, 12], [12]),
        (1, [11], []),
        (2, None, None),
    ]
    assert users["onehot_feat4"].to_list() == [1, None, 2]
    assert videos.columns == ["video_id", *kuairand.VIDEO_CODES, "video_duration", "tag"]
    histories = [feature for feature in found.features if isinstance(feature, Sequence)]
    assert {feature.shares for feature in histories} == {"video_id"}
    assert {feature.max_length for feature in histories} == {50}


def test_the_protocols_differ_in_labels_and_in_what_is_judged(tmp_path: Path) -> None:
    source = write(tmp_path / "kuairand")
    found = {
        name: check(catalog.get("kuairand", tmp_path / name, protocol=name, source=source)) for name in kuairand.LABELS
    }
    labels = {name: [label.name for label in schema.roles.label] for name, schema in found.items()}
    assert labels == {
        "click": ["is_click"],
        "long-view": ["long_view"],
        "tasks": ["is_click", "long_view"],
        "retrieval": ["is_click"],
    }
    assert {name: schema.protocol.kind for name, schema in found.items() if schema.protocol.kind != "pointwise"} == {
        "retrieval": "full"
    }
    assert read(tmp_path / "long-view").columns == [
        "user_id",
        "video_id",
        "time_ms",
        "tab",
        "hour",
        "long_view",
        "split",
    ]


def test_a_file_that_is_missing_or_no_table_is_a_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "kuairand")
    (source / "val.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"kuairand: a file in .* cannot be used"):
        catalog.get("kuairand", tmp_path / "out", source=source)
    (source / "val.parquet").unlink()
    with pytest.raises(DataError, match=r"no file val\.parquet \(plain or \.xz\).*--from"):
        catalog.get("kuairand", tmp_path / "out", source=source)


@real_data
def test_real_kuairand_has_the_counted_rows_and_becomes_a_store(tmp_path: Path) -> None:
    out = catalog.get("kuairand", tmp_path / "out", source=real("kuairand"))
    check(out)
    rows = read(out)
    assert dict(rows["split"].value_counts().rows()) == {"train": 56_137, "valid": 15_304, "test": 20_361}
    assert (read(out, "users").height, read(out, "items").height) == (27_285, 7_583)
    assert rows["is_click"].mean() == pytest.approx(0.4476, abs=1e-4)
    assert read(out, "users")["watched"].list.len().sum() == 817_187
    assert read(out, "users")["watched_long"].list.len().sum() == 390_929
    store = weft.prepare(out / "schema.toml", tmp_path / "store")
    assert store.rows == {"train": 56_137, "valid": 15_304, "test": 20_361}
    assert len(store.items) == 7_583 + 2
