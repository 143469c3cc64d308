"""The Avazu loader: the whole file or samples of its head, the banner's position as a feature or as the position."""

import lzma
from pathlib import Path

import pytest
from catalog_for_tests import check, read, real, real_data

from weft.data import catalog
from weft.data.catalog import avazu
from weft.errors import DataError

HEADER = ",".join(["id", "click", "hour", *avazu.CATEGORIES]) + "\n"


def line(k: int, hour: str = "14102100") -> str:
    codes = ["1005", str(k % 2), *(f"{name}-{k % 3}" for name in avazu.CATEGORIES[2:])]
    return ",".join([f"1000000000000000000{k}", str(k % 2), hour, *codes]) + "\n"


def write_samples(folder: Path) -> Path:
    folder.mkdir(parents=True)
    parts = (HEADER + "".join(map(line, range(5))), "".join(map(line, range(5, 7))))
    for name, text in zip(avazu.SAMPLES, parts, strict=True):
        (folder / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    return folder


def test_samples_are_read_one_after_the_other_and_said_to_be_samples(tmp_path: Path) -> None:
    out = catalog.get("avazu", tmp_path / "out", source=write_samples(tmp_path / "avazu"), options={"min_count": 3})
    found = check(out)
    rows = read(out)
    assert rows["click"].to_list() == [0, 1, 0, 1, 0, 1, 0]
    assert rows["site_id"].to_list()[-1] == "site_id-0"
    assert "samples, all of one hour" in (out / "README.txt").read_text()
    assert found.protocol.name == "avazu samples, random 8:1:1, seed 0"
    assert tuple(f.name for f in found.features) == avazu.CATEGORIES
    assert {getattr(f, "min_count", 0) for f in found.features} == {3}


def test_the_whole_file_has_hour_and_weekday(tmp_path: Path) -> None:
    source = tmp_path / "avazu"
    source.mkdir()
    (source / "train.csv").write_text(HEADER + line(0, "14102100") + line(1, "14102223"))
    out = catalog.get("avazu", tmp_path / "out", source=source)
    found = check(out)
    assert read(out).select("hour", "weekday").rows() == [(0, 2), (23, 3)]  # a Tuesday and a Wednesday
    assert [f.name for f in found.features][:3] == ["hour", "weekday", "C1"]
    assert "train.csv" in (out / "README.txt").read_text()
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "train.csv.xz").write_bytes(lzma.compress((source / "train.csv").read_bytes()))
    assert read(catalog.get("avazu", tmp_path / "again", source=packed)).equals(read(out))


def test_the_banner_is_a_feature_or_the_position_never_both(tmp_path: Path) -> None:
    source = write_samples(tmp_path / "avazu")
    feature = check(catalog.get("avazu", tmp_path / "random", source=source))
    role = check(catalog.get("avazu", tmp_path / "position", protocol="position", source=source))
    assert feature.roles.position is None
    assert "banner_pos" in {f.name for f in feature.features}
    assert role.roles.position == "banner_pos"
    assert "banner_pos" not in {f.name for f in role.features}
    assert read(tmp_path / "random")["banner_pos"].to_list() == [0, 1, 0, 1, 0, 1, 0]
    assert read(tmp_path / "position")["banner_pos"].to_list() == [1, 2, 1, 2, 1, 2, 1]


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"no file train\.csv or train_rows1-9000\.csv .* with --from"):
        catalog.get("avazu", tmp_path / "out")


@real_data
def test_real_avazu_sample_is_one_hour(tmp_path: Path) -> None:
    out = catalog.get("avazu", tmp_path / "out", protocol="position", source=real("avazu"))
    check(out)
    rows = read(out)
    assert rows.height == 9_999
    assert rows["time"].n_unique() == 1
    assert dict(rows["banner_pos"].value_counts().rows()) == {1: 8_054, 2: 1_941, 5: 2, 6: 2}
