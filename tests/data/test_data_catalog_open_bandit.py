"""The Open Bandit loader: roles, the affinities as a weighted set, both layouts of the files."""

import lzma
from pathlib import Path

import pytest
from catalog_for_tests import check, read, real, real_data
from msgspec.structs import replace

from weft.data import catalog
from weft.data.catalog import open_bandit
from weft.data.download import digest
from weft.data.store import prepare
from weft.errors import ConfigError, DataError
from weft.schema import TimeSplit

HEADER = "timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user_feature_2,user_feature_3"


def write(folder: Path, rows: int = 12, *, flat: bool = False) -> Path:
    """Impressions of three items: row k shows item k % 3 at position k % 3 + 1; a fifth of the users has a past."""
    place = folder / "random" if flat else folder / "random" / "men"
    place.mkdir(parents=True)
    past = {0: "0.0,0.0,0.0", 1: "2.0,0.0,1.0", 2: "0.0,0.0,0.0"}
    lines = [
        f"{k},2019-11-24 00:{k:02d}:36.70520{k % 9}+00:00,{k % 3},{k % 3 + 1},{int(k % 4 == 1)},0.25,"
        f"a,b{k % 2},c,d{k % 2},{past[k % 3]}"
        for k in range(rows)
    ]
    text = ",".join(["", HEADER, *(f"user-item_affinity_{k}" for k in range(3))]) + "\n" + "\n".join(lines) + "\n"
    (place / "men.csv.xz").write_bytes(lzma.compress(text.encode()))
    items = "".join(f"{k},{k},{k}.5,x{k % 2},y,z\n" for k in range(3))
    name = "men_item_context.csv" if flat else "item_context.csv"
    (place / name).write_text(f",item_id,{','.join(open_bandit.ITEM)}\n{items}")
    return folder


@pytest.mark.parametrize("flat", [False, True])
def test_affinities_become_a_weighted_set_of_items(tmp_path: Path, flat: bool) -> None:
    out = catalog.get("open-bandit", tmp_path / "out", source=write(tmp_path / "obd", flat=flat))
    check(out)
    rows = read(out)
    assert rows.columns[-2:] == ["clicked_items", "clicked_items.weight"]
    assert rows["clicked_items"].to_list() == [[], [0, 2], []] * 4
    assert rows["clicked_items.weight"].to_list() == [[], [2.0, 1.0], []] * 4
    assert read(out, "items")["item_feature_0"].to_list() == [0.5, 1.5, 2.5]
    assert "12 impressions with 3 clicks" in (out / "README.txt").read_text()


def test_position_propensity_and_time_have_their_roles(tmp_path: Path) -> None:
    source = write(tmp_path / "obd")
    out = catalog.get("open-bandit", tmp_path / "out", source=source, options={"valid": "0.25", "test": "0.25"})
    found = check(out)
    assert (found.roles.item, found.roles.position, found.roles.propensity) == (
        "item_id",
        "position",
        "propensity_score",
    )
    assert found.roles.user is None
    assert found.split == TimeSplit(valid=0.25, test=0.25)
    assert read(out)["time"].dt.epoch("ms").to_list()[:2] == [1574553636705, 1574553696705]
    constant = ("user_feature_0", "user_feature_2", "item_feature_2", "item_feature_3")  # in so small a table
    kept = replace(found, tables=None, features=tuple(f for f in found.features if f.name not in constant))
    store = prepare(kept, tmp_path / "store", interactions=read(out), items=read(out, "items"))
    train = store.split("train")
    assert train.position is not None
    assert train.position.tolist() == [1, 2, 3, 1, 2, 3]
    assert train.propensity is not None
    assert set(train.propensity.tolist()) == {0.25}
    shared = next(f for f in store.fields.ragged if f.name == "clicked_items")
    assert shared.table == "item_id"
    assert train.ragged["clicked_items"].weights is not None


def test_every_policy_and_campaign_is_a_protocol_of_its_own_files() -> None:
    entry = catalog.entry("open-bandit")
    assert entry.protocols == tuple(f"{p}-{c}" for p in ("random", "bts") for c in ("men", "women", "all"))
    for protocol in entry.protocols:
        policy, campaign = protocol.split("-")
        wanted = [f for f in entry.downloads if protocol in f.protocols]
        assert [f"{f.folder}/{f.name}" for f in wanted] == [
            f"{policy}/{campaign}/{campaign}.csv",
            f"{policy}/{campaign}/item_context.csv",
        ]
    assert len({(f.folder, f.name) for f in entry.downloads}) == len(entry.downloads)


def test_another_campaign_is_asked_for_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "obd")
    with pytest.raises(DataError, match=r"no file bts/women/women\.csv or bts/women\.csv"):
        catalog.get("open-bandit", tmp_path / "out", protocol="bts-women", source=source)
    with pytest.raises(ConfigError, match="no protocol 'random-man'; did you mean random-men"):
        catalog.get("open-bandit", tmp_path / "out", protocol="random-man", source=source)


@real_data
@pytest.mark.parametrize(("protocol", "clicks", "propensity"), [("random-men", 46, 1 / 34), ("bts-men", 69, 0.163594)])
def test_real_open_bandit_has_the_published_samples(
    tmp_path: Path, protocol: str, clicks: int, propensity: float
) -> None:
    out = catalog.get("open-bandit", tmp_path / "out", protocol=protocol, source=real("open-bandit"))
    check(out)
    rows = read(out)
    assert (rows.height, rows["click"].sum(), rows["item_id"].n_unique()) == (10_000, clicks, 34)
    assert rows["position"].unique().sort().to_list() == [1, 2, 3]
    assert rows["propensity_score"].mean() == pytest.approx(propensity, abs=1e-6)
    assert read(out, "items").height == 34


@real_data
@pytest.mark.parametrize("policy", ["random", "bts"])
def test_real_open_bandit_files_are_those_that_a_download_gives(tmp_path: Path, policy: str) -> None:
    content = lzma.decompress((real("open-bandit") / policy / "men.csv.xz").read_bytes())
    (tmp_path / "men.csv").write_bytes(content)
    assert digest(tmp_path / "men.csv", "git_blob") == open_bandit.BLOBS[f"{policy}-men"][0]
    items = real("open-bandit") / policy / "men_item_context.csv"
    assert digest(items, "git_blob") == open_bandit.BLOBS[f"{policy}-men"][1]
