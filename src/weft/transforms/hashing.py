"""Hashes that do not change from run to run or machine to machine; 0 stands for a missing value."""

from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from weft.batch import FIRST_ID, PADDING
from weft.transforms.columns import Keys

Hashes = NDArray[np.uint64]

_GOLDEN, _MIX_1, _MIX_2 = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def hash64(values: NDArray[Any]) -> Hashes:
    """xxh3_64, seed 0, of the UTF-8 text of each value [m] (int64 or object of str; integers in decimal).

    >>> hash64(np.array([7])) == hash64(np.array(["7"], object))
    array([ True])
    """
    digest = xxhash.xxh3_64_intdigest
    hashes = (digest(str(value).encode("utf-8", "surrogatepass")) for value in values.tolist())
    return np.fromiter(hashes, np.uint64, len(values))


def hash_keys(keys: Keys) -> Hashes:
    """Hash of each row [n] of a column; 0 where the value is missing."""
    hashes: Hashes = np.append(hash64(keys.values), np.uint64(0))[keys.codes]
    return hashes


def splitmix64(values: Hashes) -> Hashes:
    """Mix each number: one step of SplitMix64 from it as state (Steele, Lea, Flood, OOPSLA 2014, figure 16)."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX_1
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX_2
    return mixed ^ (mixed >> np.uint64(31))


def combine(*parts: Hashes) -> Hashes:
    """Hash of a tuple of hashes, the order matters; 0 where any part is 0; one part is returned as it is."""
    combined = parts[0]
    missing = combined == 0
    for part in parts[1:]:
        combined = splitmix64(combined) + part
        missing = missing | (part == 0)
    if len(parts) == 1:
        return combined
    return np.where(missing, np.uint64(0), splitmix64(combined))


def bucket_ids(hashes: Hashes, buckets: int) -> NDArray[np.int32]:
    """Ids of hashes: the hash modulo `buckets`, from 2; 0 where the hash is 0."""
    ids = (hashes % np.uint64(buckets)).astype(np.int32) + np.int32(FIRST_ID)
    return np.where(hashes == 0, np.int32(PADDING), ids)
