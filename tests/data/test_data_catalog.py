import hashlib
import io
import lzma
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from catalog_for_tests import check, read, real, real_data

from weft.data import catalog
from weft.data.catalog import criteo, frappe, movielens_100k
from weft.data.catalog._files import Files, unpack
from weft.errors import ArtifactError, ConfigError, DataError
from weft.schema import RandomSplit, TimeSplit

# ---- small copies of the publishers' files ----

MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Café, The(1919)::Drama\n3::New (2000)::A|B|C|D|E|F\n"


def write_1m(folder: Path) -> Path:
    """Three users, three movies; user 2 has his test movie among the negatives."""
    folder.mkdir(parents=True)
    (folder / "movies.dat").write_text(MOVIES, encoding="latin-1")
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117-12\n")
    rows = [(1, 3, 5), (1, 1, 3), (1, 2, 1), (2, 1, 4), (2, 2, 2), (2, 3, 5)]
    (folder / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::97830{k}\n" for k, (u, m, r) in enumerate(rows)))
    (folder / "ml-1m.train.rating").write_text("0\t2\t1\t9\n0\t1\t3\t8\n1\t2\t2\t9\n1\t0\t5\t8\n")
    (folder / "ml-1m.test.rating").write_text("0\t0\t5\t99\n1\t1\t4\t99\n")
    lines = ("(0,0)\t" + "\t".join(["1", "2", "1"] * 33), "(1,1)\t" + "\t".join(["0", "1", *["2"] * 97]))
    (folder / "ml-1m.test.negative").write_text("\n".join(lines) + "\n")
    return folder


def write_100k(folder: Path, rows: int = 50) -> Path:
    folder.mkdir(parents=True)
    flags = {0: "1|" + "0|" * 17 + "0", 1: "0|1|1|" + "0|" * 15 + "0"}
    (folder / "u.data").write_text("".join(f"{k % 5 + 1}\t{k + 1}\t{k % 5 + 1}\t{8000 + k}\n" for k in range(rows)))
    (folder / "u.user").write_text("".join(f"{k}|{20 + k}|M|writer|1234{k}\n" for k in range(1, 6)))
    movies = (f"{k + 1}|Él {k}|{'01-Jan-1995' if k % 2 else ''}||http://m|{flags[k % 2]}\n" for k in range(rows))
    (folder / "u.item").write_text("".join(movies), encoding="latin-1")
    return folder


def libsvm_line(label: int, values: tuple[int, ...]) -> str:
    starts = [0]
    for size in list(frappe.FIELDS.values())[:-1]:
        starts.append(starts[-1] + size)
    return " ".join([str(label), *(f"{start + value}:1" for start, value in zip(starts, values, strict=True))])


def write_frappe(folder: Path, train: str = "train.libsvm") -> Path:
    folder.mkdir(parents=True)
    line = libsvm_line(1, (956, 4081, 6, 6, 1, 2, 1, 8, 79, 232)) + "\n" + libsvm_line(0, (0,) * 10) + "\n"
    for name in (train, "valid.libsvm", "test.libsvm"):
        (folder / name).write_text(line)
    return folder


def criteo_line(label: int, number: str, separator: str) -> str:
    return separator.join([str(label), number, *[""] * 11, "-2", *["68fd1e64"] * 25, ""]) + "\n"


# ---- the catalogue ----


def test_entries_say_what_they_are() -> None:
    assert catalog.names() == [
        *(
            "adult",
            "avazu",
            "criteo",
            "frappe",
            "gowalla",
            "kuairand",
            "lastfm",
            "movielens-100k",
            "movielens-1m",
            "music",
            "open-bandit",
        )
    ]
    for name in catalog.names():
        entry = catalog.entry(name)
        assert entry.name == name
        assert entry.default_protocol == entry.protocols[0]
        assert entry.terms.endswith(".")
        assert all(file.url.startswith("https://") for file in entry.downloads)


def test_an_unknown_name_protocol_or_option_is_answered_with_the_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data set is named 'movielens1m'; did you mean movielens-1"):
        catalog.get("movielens1m", tmp_path / "out")
    with pytest.raises(ConfigError, match="no protocol 'ctrr'; did you mean ctr"):
        catalog.get("movielens-1m", tmp_path / "out", protocol="ctrr")
    with pytest.raises(ConfigError, match="no option 'row'; did you mean rows"):
        catalog.get("music", tmp_path / "out", options={"row": 5})
    with pytest.raises(ConfigError, match="no option 'seed'; it takes none"):
        catalog.get("frappe", tmp_path / "out", options={"seed": 5})
    with pytest.raises(ConfigError, match=r"option of movielens-100k: .*<= 5.*fold"):
        catalog.get("movielens-100k", tmp_path / "out", options={"fold": "6"})
    with pytest.raises(ConfigError, match=r"option of music: `rows` must be .* got 3"):
        catalog.get("music", tmp_path / "out", options={"rows": "3"})
    assert not (tmp_path / "out").exists()


def test_options_are_pairs() -> None:
    assert catalog.parse_options(["rows=10", "note = a=b"]) == {"rows": "10", "note": "a=b"}
    with pytest.raises(ConfigError, match="'rows' must be KEY=VALUE"):
        catalog.parse_options(["rows"])


def test_a_missing_file_or_folder_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere' is not a folder"):
        catalog.get("frappe", tmp_path / "out", source=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no file train.libsvm or train_regenerated.libsvm \(plain or .xz\) in"):
        catalog.get("frappe", tmp_path / "out", source=tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_a_folder_in_the_way_is_refused(tmp_path: Path) -> None:
    source = write_frappe(tmp_path / "source")
    with pytest.raises(ArtifactError, match="exists already"):
        catalog.get("frappe", source, source=source)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe", b"1\t2\n", b"1\t2\tfive\t4\n", b"1\t2\t9\t4\n"])
def test_damaged_files_are_a_sentence(content: bytes, tmp_path: Path) -> None:
    source = write_100k(tmp_path / "source")
    (source / "u.data").write_bytes(content)
    with pytest.raises(DataError, match=r"u\.data.*get the publisher's file again"):
        catalog.get("movielens-100k", tmp_path / "out", source=source)


def test_a_damaged_xz_is_a_sentence(tmp_path: Path) -> None:
    source = write_100k(tmp_path / "source")
    whole = lzma.compress((source / "u.data").read_bytes())
    (source / "u.data").unlink()
    (source / "u.data.xz").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"u\.data\.xz' cannot be read"):
        catalog.get("movielens-100k", tmp_path / "out", source=source)


# ---- movielens-1m ----


def test_1m_ctr_drops_rating_3_and_has_seven_fields(tmp_path: Path) -> None:
    out = catalog.get("movielens-1m", tmp_path / "out", source=write_1m(tmp_path / "ml-1m"))
    found = check(out)
    assert read(out).rows() == [(1, 3, 1), (1, 2, 0), (2, 1, 1), (2, 2, 0), (2, 3, 1)]
    names = [feature.name for feature in found.features]
    assert names == ["user_id", "gender", "age", "occupation", "movie_id", "release", "genres"]
    assert read(out, "items").rows() == [
        (1, "Toy Story (1995)", 1990, ["Animation", "Comedy"]),
        (2, "Café, The(1919)", 1920, ["Drama"]),
        (3, "New (2000)", 1990, ["A", "B", "C", "D", "E"]),
    ]
    assert found.presets["bars"] == {"embedding_dim": 16, "dropout": 0.2, "train": {"l2": 0.01}}
    assert found.split == RandomSplit(valid=0.1, test=0.1, seed=0)


def test_1m_rating_keeps_all_rows(tmp_path: Path) -> None:
    source = write_1m(tmp_path / "ml-1m")
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="rating", source=source, options={"seed": 7})
    found = check(out)
    assert read(out)["rating"].to_list() == [5, 3, 1, 4, 2, 5]
    assert found.roles.label[0].task == "regression"
    assert found.split == RandomSplit(valid=0.1, test=0.1, seed=7)


def test_1m_autoint_has_times_and_no_ids(tmp_path: Path) -> None:
    source = write_1m(tmp_path / "ml-1m")
    with (source / "ratings.dat").open("a") as file:
        file.write("3000::1::5::978301\n2999::2::1::978302\n")
    with (source / "users.dat").open("a") as file:
        file.write("3000::M::25::1::1\n2999::F::25::1::2\n")
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="autoint", source=source, options={"seed": 7})
    found = check(out)
    rows = [(1, 3, 978300, 1), (1, 2, 978302, 0), (2, 1, 978303, 1), (2, 2, 978304, 0), (2, 3, 978305, 1)]
    assert read(out).rows() == [*rows, (2999, 2, 978302, 0)]
    names = [feature.name for feature in found.features]
    assert names == ["gender", "age", "occupation", "zip", "release", "genres", "request_time"]
    assert read(out, "items")["release"].to_list() == [1995, 1920, 2000]
    assert read(out, "items")["genres"].to_list()[2] == ["A", "B", "C", "D", "E", "F"]
    assert read(out, "users")["zip"].to_list()[:3] == ["48067", "70072", "55117-12"]
    assert found.split == RandomSplit(valid=0.1, test=0.1, seed=7)


def test_1m_autoint_leaves_out_rows_without_a_time(tmp_path: Path) -> None:
    source = write_1m(tmp_path / "ml-1m")
    lines = [line.split("::") for line in (source / "ratings.dat").read_text().splitlines()]
    (source / "ratings.dat").unlink()
    rebuilt = ["\t".join([*line[:3], "" if line[1] == "3" else line[3], "0"]) for line in lines]
    header = "user_id\tmovie_id\trating\ttimestamp\tchrono_rank"
    (source / "ratings.tsv").write_text("\n".join([header, *rebuilt, ""]))
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="autoint", source=source)
    assert read(out)["movie_id"].to_list() == [2, 1, 2]


def test_1m_ncf_is_the_published_split_under_the_raw_ids(tmp_path: Path) -> None:
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=write_1m(tmp_path / "ml-1m"))
    found = check(out)
    assert read(out).select("user_id", "movie_id", "place", "split").rows() == [
        (1, 2, 1, "valid"),
        (1, 1, 0, "train"),
        (2, 2, 1, "valid"),
        (2, 3, 0, "train"),
        (1, 3, 2, "test"),
        (2, 1, 2, "test"),
    ]
    lists = read(out, "candidates")
    assert lists["user_id"].to_list() == [1, 2]
    assert lists["candidates"].list.len().to_list() == [100, 100]
    assert lists["candidates"][0].to_list() == [3, 1, 2, 1, *[1, 2, 1] * 32]
    assert lists["candidates"][1].to_list() == [1, 3, None, *[2] * 97]
    assert found.protocol.kind == "candidates"
    assert found.protocol.candidates == "candidates.parquet"
    assert "1 users have their test movie" in (out / "README.txt").read_text()


def test_1m_ncf_may_train_on_the_validation_rows_as_published(tmp_path: Path) -> None:
    source, options = write_1m(tmp_path / "ml-1m"), {"valid": "false"}
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=source, options=options)
    found = check(out)
    assert read(out)["split"].to_list() == ["train"] * 4 + ["test"] * 2
    assert str(found.protocol.name).endswith("no validation rows")
    assert "no validation rows, as published" in (out / "README.txt").read_text()


def test_1m_reads_the_rebuilt_table_and_the_neighbour_folder(tmp_path: Path) -> None:
    source = write_1m(tmp_path / "ml-1m")
    ncf = tmp_path / "ncf"
    ncf.mkdir()
    for path in source.glob("ml-1m.*"):
        path.rename(ncf / path.name)
    lines = (source / "ratings.dat").read_text().splitlines()
    rebuilt = ["\t".join([*line.split("::")[:3], "", "0"]) for line in lines]
    (source / "ratings.dat").unlink()
    header = "user_id\tmovie_id\trating\ttimestamp\tchrono_rank"
    (source / "ratings.tsv.xz").write_bytes(lzma.compress("\n".join([header, *rebuilt, ""]).encode()))
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=source)
    assert read(out).height == 6


def test_1m_ncf_files_of_other_data_are_refused(tmp_path: Path) -> None:
    source = write_1m(tmp_path / "ml-1m")
    (source / "ml-1m.train.rating").write_text("0\t7\t1\t9\n")
    with pytest.raises(DataError, match=r"not in 0\.\.2"):
        catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=source)
    (source / "ml-1m.test.rating").write_text("0\t1\t5\t99\n1\t1\t4\t99\n")
    with pytest.raises(DataError, match=r"other \(user, item\) pairs"):
        catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=source)


# ---- movielens-100k ----


def test_100k_folds_are_fifths_of_the_file(tmp_path: Path) -> None:
    source = write_100k(tmp_path / "ml-100k")
    tests = []
    for fold in range(1, 6):
        out = catalog.get("movielens-100k", tmp_path / f"out{fold}", source=source, options={"fold": str(fold)})
        split = read(out)["split"]
        assert split.value_counts(sort=True).rows() == [("train", 36), ("test", 10), ("valid", 4)]
        tests += split.eq("test").arg_true().to_list()
    assert tests == list(range(50))
    assert check(tmp_path / "out3").protocol.name == "ml-100k rating, official fold u3"


def test_100k_items_and_users_are_read(tmp_path: Path) -> None:
    out = catalog.get("movielens-100k", tmp_path / "out", source=write_100k(tmp_path / "ml-100k"))
    assert read(out, "items").rows()[:2] == [
        (1, "Él 0", None, ["unknown"]),
        (2, "Él 1", 1995, ["Action", "Adventure"]),
    ]
    assert read(out, "users").rows()[0] == (1, 21, "M", "writer")


def test_100k_ctr_drops_rating_3(tmp_path: Path) -> None:
    out = catalog.get("movielens-100k", tmp_path / "out", protocol="ctr", source=write_100k(tmp_path / "ml-100k"))
    check(out)
    assert read(out)["liked"].to_list() == [0, 0, 1, 1] * 10


def test_100k_official_test_file_must_be_the_fold(tmp_path: Path) -> None:
    source = write_100k(tmp_path / "ml-100k")
    lines = (source / "u.data").read_text().splitlines(keepends=True)
    (source / "u2.test").write_text("".join(reversed(lines[10:20])))
    catalog.get("movielens-100k", tmp_path / "good", source=source, options={"fold": 2})
    (source / "u2.test").write_text("".join(lines[11:21]))
    with pytest.raises(DataError, match=r"u2\.test' is not lines 10 to 20"):
        catalog.get("movielens-100k", tmp_path / "bad", source=source, options={"fold": 2})


# ---- frappe, criteo, music ----


@pytest.mark.parametrize(("train", "said"), [("train.libsvm", "published file"), (frappe.REGENERATED, "drawn anew")])
def test_frappe_counts_each_field_from_0_and_names_its_train_file(train: str, said: str, tmp_path: Path) -> None:
    out = catalog.get("frappe", tmp_path / "out", source=write_frappe(tmp_path / "frappe", train))
    found = check(out)
    assert read(out).rows()[:2] == [
        (1, 956, 4081, 6, 6, 1, 2, 1, 8, 79, 232, "train"),
        (0, *[0] * 10, "train"),
    ]
    assert read(out)["split"].to_list() == [name for name in ("train", "valid", "test") for _ in range(2)]
    assert said in (out / "README.txt").read_text()
    assert [found.side_of(name) for name in ("user", "item", "city")] == ["user", "item", "context"]
    assert found.presets["bars"] == {"embedding_dim": 10, "dropout": 0.4, "train": {"l2": 0.05}}


@pytest.mark.parametrize("wrong", ["957:1", "x", "-1:1"])
def test_frappe_refuses_an_id_of_another_field(wrong: str, tmp_path: Path) -> None:
    source = write_frappe(tmp_path / "frappe")
    good = libsvm_line(0, (5,) + (0,) * 9)
    (source / "valid.libsvm").write_text(f"{good}\n{good.replace('5:1', wrong, 1)}\n")
    with pytest.raises(DataError, match=r"valid\.libsvm', field 'user', row 1: not one of the 957"):
        catalog.get("frappe", tmp_path / "out", source=source)


def test_criteo_reads_the_whole_file_where_it_is(tmp_path: Path) -> None:
    source = tmp_path / "criteo"
    source.mkdir()
    (source / "train.txt").write_text(criteo_line(0, "1", "\t") * 3 + criteo_line(1, "", "\t"))
    out = catalog.get("criteo", tmp_path / "out", source=source, options={"min_count": "2"})
    found = check(out)
    rows = read(out)
    assert rows.columns == ["label", *criteo.NUMBERS, *criteo.CATEGORIES]
    assert rows["I1"].to_list() == [1.0, 1.0, 1.0, None]
    assert rows["I13"].to_list() == [-2.0] * 4
    assert rows["C26"].null_count() == 4
    assert {getattr(feature, "min_count", 2) for feature in found.features} == {2}
    assert len(found.features) == 39


def test_criteo_rows_that_are_no_rows_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt").write_text(criteo_line(0, "many", "\t"))
    with pytest.raises(DataError, match=r"criteo: a file in .* cannot be used"):
        catalog.get("criteo", tmp_path / "out", source=tmp_path)
    assert not (tmp_path / "out").exists()


def test_criteo_samples_are_freed_of_each_others_rows(tmp_path: Path) -> None:
    source = tmp_path / "criteo"
    source.mkdir()
    (source / "train_first10k.txt").write_text(criteo_line(0, "7", "\t") * 2)
    header = ",".join(["Label", *criteo.NUMBERS, *criteo.CATEGORIES]) + "\n"
    more = header + criteo_line(0, "7.0", ",") + criteo_line(1, "7", ",")
    (source / "x4_test_sample.csv.xz").write_bytes(lzma.compress(more.encode()))
    out = catalog.get("criteo", tmp_path / "out", source=source)
    assert read(out)["label"].to_list() == [0, 0, 1]
    assert "samples" in (check(out).protocol.name or "")


def test_music_is_made_here_and_its_truth_is_no_feature(tmp_path: Path) -> None:
    out = catalog.get("music", tmp_path / "out", options={"rows": "1000", "seed": 3})
    found = check(out)
    assert read(out).height == read(out, "truth").height == 1000
    assert {"logit", "relevance", "first_order", "seen"}.isdisjoint(f.name for f in found.features)
    assert not any(feature.__class__.__name__ == "Cross" for feature in found.features)
    assert found.split == TimeSplit(valid=0.1, test=0.1)
    again = catalog.get("music", tmp_path / "again", options={"rows": 1000, "seed": 3})
    assert read(again).equals(read(out))


# ---- downloads ----


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def publisher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that is served over HTTP, and its address; downloads go to a cache in `tmp_path`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "publisher"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def zipped(source: Path, prefix: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for path in source.iterdir():
            bundle.write(path, f"{prefix}/{path.name}")
    return buffer.getvalue()


def serve_100k(publisher: tuple[Path, str], tmp_path: Path) -> Callable[..., catalog.Dataset]:
    folder, url = publisher
    content = zipped(write_100k(tmp_path / "raw"), "ml-100k")
    (folder / "ml-100k.zip").write_bytes(content)

    def dataset(md5: str = hashlib.md5(content, usedforsecurity=False).hexdigest()) -> catalog.Dataset:
        members = ("ml-100k/u.data", "ml-100k/u.item", "ml-100k/u.user")
        file = catalog.Download(f"{url}/ml-100k.zip", md5=md5, members=members)
        return replace(movielens_100k.DATASET, downloads=(file,))

    return dataset


def test_a_download_equals_the_local_files(
    publisher: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = serve_100k(publisher, tmp_path)
    monkeypatch.setitem(catalog._DATASETS, "movielens-100k", dataset())
    fetched = catalog.get("movielens-100k", tmp_path / "fetched")
    local = catalog.get("movielens-100k", tmp_path / "local", source=tmp_path / "raw")
    assert read(fetched).equals(read(local))
    assert "MovieLens-100K: 100,000 movie ratings. Research use" in capsys.readouterr().err
    (publisher[0] / "ml-100k.zip").unlink()
    catalog.get("movielens-100k", tmp_path / "cached", progress=False)


def test_a_wrong_checksum_leaves_no_folder(
    publisher: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = serve_100k(publisher, tmp_path)
    monkeypatch.setitem(catalog._DATASETS, "movielens-100k", dataset("0" * 32))
    with pytest.raises(DataError, match=f"md5 {'0' * 32} expected, got"):
        catalog.get("movielens-100k", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_archives_give_their_members_and_nothing_else(tmp_path: Path) -> None:
    archive = tmp_path / "data.tar.gz"
    with tarfile.open(archive, "w:gz") as bundle:
        for name in ("../train.txt", "test.txt"):
            bundle.addfile(info := tarfile.TarInfo(name), io.BytesIO(b""))
            assert info.size == 0
    unpack(archive, ("../train.txt",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.tar.gz", "train.txt"]
    with pytest.raises(DataError, match=r"no readable 'other\.txt'"):
        unpack(archive, ("other.txt",))
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="no readable 'a'"):
        unpack(tmp_path / "broken.zip", ("a",))


def test_a_plain_file_goes_before_its_xz(tmp_path: Path) -> None:
    (tmp_path / "a.xz").write_bytes(lzma.compress(b""))
    assert Files(tmp_path).find("a") == tmp_path / "a.xz"
    (tmp_path / "a").touch()
    assert Files(tmp_path).find("a") == tmp_path / "a"


# ---- the real data ----


@real_data
def test_real_1m_ctr_has_the_published_size(tmp_path: Path) -> None:
    out = catalog.get("movielens-1m", tmp_path / "out", source=real("ml-1m"))
    rows = read(out)
    check(out)
    assert rows.height == 739_012
    assert rows["liked"].cast(pl.Int64).sum() == 348_971 + 226_310
    assert read(out, "items")["release"].n_unique() == 8
    assert read(out, "items")["release"].null_count() == 0


@real_data
def test_real_1m_autoint_has_all_times_of_its_users(tmp_path: Path) -> None:
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="autoint", source=real("ml-1m"))
    rows = read(out)
    check(out)
    assert rows["user_id"].max() == 2999
    ctr = read(catalog.get("movielens-1m", tmp_path / "ctr", source=real("ml-1m")))
    assert rows.height == ctr.filter(pl.col("user_id") <= 2999).height
    assert read(out, "items")["release"].n_unique() == 5 + 31


@real_data
def test_real_1m_ncf_has_156_repeated_positives(tmp_path: Path) -> None:
    out = catalog.get("movielens-1m", tmp_path / "out", protocol="ncf", source=real("ml-1m"))
    check(out)
    rows, lists = read(out), read(out, "candidates")
    assert dict(rows["split"].value_counts().rows()) == {"train": 988_129, "valid": 6_040, "test": 6_040}
    assert lists["candidates"].list.len().unique().to_list() == [100]
    assert lists["candidates"].explode().null_count() == 156
    test = rows.filter(pl.col("split") == "test").join(lists, on="user_id", how="left", maintain_order="left")
    assert test["movie_id"].equals(test["candidates"].list.first())
    raw = catalog.get("movielens-1m", tmp_path / "raw", protocol="rating", source=real("ml-1m"))
    keys = ["user_id", "movie_id"]
    assert rows.select(keys).sort(keys).equals(read(raw).select(keys).sort(keys))


@real_data
def test_real_100k_fold_1_is_the_official_one(tmp_path: Path) -> None:
    out = catalog.get("movielens-100k", tmp_path / "out", source=real("ml-100k"))
    check(out)
    assert dict(read(out)["split"].value_counts().rows()) == {"train": 72_000, "valid": 8_000, "test": 20_000}
    assert read(out, "items")["year"].null_count() == 1
    assert read(out, "items")["genres"].list.len().min() == 1


@real_data
def test_real_frappe_has_the_published_sizes_and_titles(tmp_path: Path) -> None:
    out = catalog.get("frappe", tmp_path / "out", source=real("frappe"))
    check(out)
    rows = read(out)
    assert dict(rows["split"].value_counts().rows()) == {"train": 202_027, "valid": 57_722, "test": 28_860}
    assert rows.select(pl.col(*frappe.FIELDS).n_unique()).row(0) == tuple(frappe.FIELDS.values())
    assert read(out, "items")["title"][3] == "Instagram"
    pair = ["user", "item"]
    seen = rows.filter(pl.col("label") == 1, split="train").select(pair).unique(maintain_order=True)
    again = rows.filter(split="test").join(seen, on=pair, how="semi")
    assert again["label"].min() == 1  # a pair seen in train is never a negative
    assert again.height / rows.filter(pl.col("label") == 1, split="test").height == pytest.approx(0.875, abs=1e-3)


@real_data
def test_real_criteo_samples_overlap_as_counted(tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    for name in ("train_first10k.txt.xz", "x4_valid_sample.csv.xz", "x4_test_sample.csv.xz"):
        (tmp_path / "two" / name).symlink_to(real("criteo").resolve() / name)
    out = catalog.get("criteo", tmp_path / "out", source=tmp_path / "two")
    check(out)
    assert read(out).height == 10_000 + 2 * 3_999 - 1_012 - 955
