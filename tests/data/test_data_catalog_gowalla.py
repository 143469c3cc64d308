"""The Gowalla loader: lines of a user and places, the published split, validation rows drawn for each user."""

import lzma
from pathlib import Path

import polars as pl
import pytest
from catalog_for_tests import check, read, real, real_data

from weft.data import catalog
from weft.data.catalog._draw import drawn
from weft.errors import DataError

TRAIN = "0 0 1 2 3 4 5 6 7 8 9\n1 3 4\n2 7\n"
TEST = "0 10 11\n1 0\n2 \n"


def write(folder: Path, train: str = TRAIN, test: str = TEST) -> Path:
    folder.mkdir(parents=True)
    (folder / "train.txt.xz").write_bytes(lzma.compress(train.encode()))
    (folder / "test.txt").write_text(test)
    return folder


def test_lines_become_pairs_and_a_user_may_have_no_test_place(tmp_path: Path) -> None:
    out = catalog.get("gowalla", tmp_path / "out", source=write(tmp_path / "gowalla"), options={"valid": 0})
    found = check(out)
    rows = read(out)
    assert rows.columns == ["user_id", "item_id", "split", "visited"]
    assert rows.filter(split="train")["user_id"].to_list() == [0] * 10 + [1, 1, 2]
    assert rows.filter(split="train")["item_id"].to_list() == [*range(10), 3, 4, 7]
    assert rows.filter(split="test").select("user_id", "item_id").rows() == [(0, 10), (0, 11), (1, 0)]
    assert (found.protocol.kind, found.protocol.k, found.protocol.seen) == ("full", (20,), "hide")
    assert str(found.protocol.name).endswith("no validation rows")
    assert "no validation rows, as published" in (out / "README.txt").read_text()


def test_a_tenth_of_each_users_places_is_for_validation(tmp_path: Path) -> None:
    source = write(tmp_path / "gowalla")
    splits = [
        read(catalog.get("gowalla", tmp_path / f"out{k}", source=source, options={"seed": seed}))["split"]
        for k, seed in enumerate((0, 0, 1))
    ]
    for split in splits:
        assert split[:10].to_list().count("valid") == 1
        assert split[10:13].to_list() == ["train"] * 3
        assert split[13:].to_list() == ["test"] * 3
    assert splits[0].equals(splits[1])
    assert not splits[0].equals(splits[2])


def test_a_user_keeps_a_train_row_whatever_the_share() -> None:
    found = drawn(pl.Series([5, 5, 5, 9]), 0.99, seed=1)
    assert found[:3].sum() == 2
    assert not found[3]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("0 1 two\n", r"train\.txt\.xz' does not hold lines of a user and places"),
        ("0 1\n0 2\n", "must hold one line a user"),
        ("0\n1\n", "with places"),
        ("0 10 1\n", "1 test pairs of gowalla are train pairs too"),
    ],
)
def test_files_that_are_not_the_split_are_a_sentence(tmp_path: Path, train: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        catalog.get("gowalla", tmp_path / "out", source=write(tmp_path / "gowalla", train))


@real_data
def test_real_gowalla_has_the_published_sizes(tmp_path: Path) -> None:
    out = catalog.get("gowalla", tmp_path / "out", source=real("gowalla"))
    check(out)
    rows = read(out)
    count = dict(rows["split"].value_counts().rows())
    assert count["train"] + count["valid"] == 810_128
    assert count["test"] == 217_242
    assert count["valid"] == pytest.approx(81_012, rel=0.02)
    assert (rows["user_id"].n_unique(), rows["item_id"].n_unique()) == (29_858, 40_981)
    assert rows.select("user_id", "item_id").is_duplicated().sum() == 0
