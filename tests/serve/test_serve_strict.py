"""Strict JSON: what the standard library takes is taken, but for doubled keys, depth and half characters."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.serve.strict import DEPTH, Malformed, check

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES, st.booleans())
def test_what_is_json_passes(value: Any, ascii: bool) -> None:
    check(json.dumps(value, ensure_ascii=ascii).encode())


@given(st.binary(max_size=20) | VALUES.map(lambda v: json.dumps(v).encode()), st.integers(0, 20), st.binary(max_size=2))
def test_nothing_but_malformed_is_ever_raised(body: bytes, place: int, change: bytes) -> None:
    spoilt = body[:place] + change + body[place + 1 :]
    found: list[Malformed] = []
    try:
        check(spoilt)
    except Malformed as error:
        found.append(error)
    assert all(error.path.startswith("$") and str(error) for error in found)
    if not found:
        json.loads(spoilt)


@pytest.mark.parametrize(
    ("body", "path", "words"),
    [
        (b'{"a": {"b": [0, {"c": 1, "d": 2, "c": 3}]}}', "$.a.b[1].c", "'c' stands twice"),
        (b'{"a": 1, "\\u0061": 2}', "$.a", "'a' stands twice"),
        (b'{"a": [1, NaN]}', "$.a[1]", "'NaN' is no JSON value"),
        (b'{"a": "\\udc00"}', "$.a", "surrogate"),
        (b'{"\\udc00": 1}', "$", "surrogate"),
        (b'{"a": [1, "\xff"]}', "$.a[1]", "not UTF-8 .byte 11"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "$" + "[0]" * DEPTH, f"more than {DEPTH} levels"),
        (b'{"a": tru}', "$.a", "'tru'"),
        (b'{"a" 1}', "$", "':'"),
        (b"[1 2]", "$", "','"),
        (b"1 2", "$", "Extra data"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(body: bytes, path: str, words: str) -> None:
    with pytest.raises(Malformed, match=words) as caught:
        check(body)
    assert caught.value.path.startswith(path)


def test_depth_is_counted_in_levels_not_in_brackets() -> None:
    check(b"[" + b",".join([b"[]"] * 1_000) + b"]")
    check(json.dumps("[" * 100).encode())
    check(b"[" * DEPTH + b"]" * DEPTH)
