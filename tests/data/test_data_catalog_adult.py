"""The Adult loader: the publisher's split, the tutorial's crosses, remarks and empty lines of the files."""

import lzma
from pathlib import Path

import pytest
from catalog_for_tests import check, read, real, real_data

from weft.data import catalog
from weft.data.catalog import adult
from weft.errors import DataError
from weft.schema import ColumnSplit, Cross


def line(age: int, education: str, income: str) -> str:
    start = f"{age}, Private, 77516, {education}, 13, Never-married, ?, Not-in-family, White, Male"
    return f"{start}, 2174, 0, 40, United-States, {income}\n"


def write(folder: Path, rows: int = 30) -> Path:
    """The publisher's files in small: an empty last line, a remark on the first line of the test file, points."""
    folder.mkdir(parents=True)
    incomes = ("<=50K", ">50K", "<=50K")
    train = "".join(line(17 + k, "Bachelors", incomes[k % 3]) for k in range(rows))
    (folder / "adult.data.xz").write_bytes(lzma.compress((train + "\n").encode()))
    test = line(25, "11th", "<=50K.") + line(60, "HS-grad", ">50K.")
    (folder / "adult.test").write_text("|1x3 Cross validator\n" + test + "\n")
    return folder


def test_the_test_split_is_the_publishers_file(tmp_path: Path) -> None:
    out = catalog.get("adult", tmp_path / "out", source=write(tmp_path / "adult"))
    found = check(out)
    rows = read(out)
    assert found.split == ColumnSplit(column="split")
    assert dict(rows["split"].value_counts().rows()) == {"train": 27, "valid": 3, "test": 2}
    assert rows.filter(split="test").select("age", "education", "income").rows() == [
        (25, "11th", 0),
        (60, "HS-grad", 1),
    ]
    assert rows.filter(split="train")["age"].is_sorted()
    assert rows["income"].to_list()[:3] == [0, 1, 0]
    assert rows["occupation"].unique().to_list() == ["?"]


def test_another_seed_holds_out_other_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "adult")
    held = [
        read(catalog.get("adult", tmp_path / f"out{seed}", source=source, options={"seed": seed}))
        .filter(split="valid")["age"]
        .to_list()
        for seed in (0, 1)
    ]
    assert held[0] != held[1]


def test_the_protocols_differ_in_the_crosses_only(tmp_path: Path) -> None:
    source = write(tmp_path / "adult")
    schemas = {
        protocol: check(catalog.get("adult", tmp_path / protocol, protocol=protocol, source=source))
        for protocol in ("crosses", "plain")
    }
    features = {protocol: schema.features for protocol, schema in schemas.items()}
    crosses = [feature for feature in features["crosses"] if isinstance(feature, Cross)]
    assert [cross.of for cross in crosses] == [
        ("education", "occupation"),
        ("native_country", "occupation"),
        ("age.bucket", "education", "occupation"),
    ]
    assert [cross.name for cross in crosses][-1] == "age x education x occupation"
    assert features["plain"] == features["crosses"][: -len(crosses)]


@pytest.mark.parametrize("wrong", ["50K", "", "more"])
def test_an_income_that_is_none_is_named(tmp_path: Path, wrong: str) -> None:
    source = write(tmp_path / "adult")
    (source / "adult.test").write_text(line(25, "11th", "<=50K.") + line(30, "11th", wrong))
    with pytest.raises(DataError, match=r"adult\.test', column 'income', row 1: .*get the publisher's file again"):
        catalog.get("adult", tmp_path / "out", source=source)


def test_an_age_that_is_no_number_is_a_sentence(tmp_path: Path) -> None:
    source = write(tmp_path / "adult")
    (source / "adult.test").write_text(line(25, "11th", "<=50K.").replace("25", "old", 1))
    with pytest.raises(DataError, match=r"adult: a file in .* cannot be used"):
        catalog.get("adult", tmp_path / "out", source=source)


@real_data
def test_real_adult_has_the_published_sizes(tmp_path: Path) -> None:
    out = catalog.get("adult", tmp_path / "out", source=real("adult"))
    check(out)
    rows = read(out)
    assert dict(rows["split"].value_counts().rows()) == {"train": 29_305, "valid": 3_256, "test": 16_281}
    assert rows.filter(split="test")["income"].sum() == 3_846
    assert rows["income"].sum() == 7_841 + 3_846
    assert set(adult.CATEGORIES) <= set(rows.columns)
    assert rows["native_country"].n_unique() == 42
