"""Which example lies in which part: pure functions of content and split_seed, never of the rows' order.

Rows that share a key (a group value, a normalised text) belong to one group, directly or through other rows, and a
group lies wholly in one part. Burns et al. 2023 (appendix A) likewise keep related rows on one side.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from w2s.config import SplitSpec
from w2s.errors import DataError
from w2s.tasks.base import seeded_hash

_DEFAULT_TEST_SHARE = float(SplitSpec().test)


def group_rows(keys: Sequence[Collection[str]]) -> np.ndarray:
    """Connected components of rows that share keys.

    Args:
        keys: The keys of each row; two kinds of keys are kept apart by a prefix of the caller's.

    Returns:
        Group number of each row, shape (rows,). Numbers are arbitrary: only their equality means something.
    """
    codes: dict[str, int] = {}
    key_of = np.array([codes.setdefault(key, len(codes)) for row in keys for key in row], dtype=np.int64)
    row_of = np.repeat(np.arange(len(keys)), [len(row) for row in keys])
    size = len(keys) + len(codes)
    graph = coo_array((np.ones(len(key_of), dtype=np.int8), (row_of, key_of + len(keys))), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(keys)]


def part_sizes(pool: int, splits: SplitSpec, *, official_test: bool) -> dict[str, int]:
    """Examples that each part of the pool should get, in the order in which parts are dealt.

    Whole numbers are examples, fractions shares of the pool. With an official test the pool holds no test, and its
    share goes to the other fractions: each is divided by 1 - test share (the default share where `test` is a whole
    number), or by the fractions' sum where that is larger. All transfer parts are of one size.

    Raises:
        DataError: More is asked for than the pool has, or a part gets nothing.
    """
    wanted = {
        "test": splits.test,
        "validation": splits.validation,
        "supervise": splits.supervise,
        "transfer": splits.transfer,
    }
    if official_test:
        del wanted["test"]
        test_share = splits.test if isinstance(splits.test, float) else _DEFAULT_TEST_SHARE
        shares = sum(share for share in wanted.values() if isinstance(share, float))
        scale = max(1.0 - test_share, shares)
        wanted = {part: size / scale if isinstance(size, float) and scale else size for part, size in wanted.items()}
    asked = {part: size * pool if isinstance(size, float) else float(size) for part, size in wanted.items()}
    sizes = _round_to_sum(asked)
    if sum(sizes.values()) > pool:
        parts = " + ".join(f"{part} {size}" for part, size in sizes.items())
        raise DataError(
            f"splits ask for {parts} = {sum(sizes.values())} examples, but the pool has {pool}: ask for fewer, or for"
            " fractions that sum to at most 1"
        )
    each = sizes.pop("transfer") // splits.transfer_parts
    sizes |= {f"transfer/{k}": each for k in range(splits.transfer_parts)}
    empty = [part for part, size in sizes.items() if size == 0]
    if empty:
        raise DataError(
            f"part {empty[0]} would get none of the pool's {pool} examples"
            f" (splits.{empty[0].split('/')[0]}: {getattr(splits, empty[0].split('/')[0]):g}"
            + (f", in {splits.transfer_parts} parts" if "/" in empty[0] else "")
            + "): ask for a larger share, or bring more data"
        )
    return sizes


def deal(
    ids: Sequence[str],
    groups: np.ndarray,
    sizes: Mapping[str, int],
    split_seed: int,
    *,
    tied_by: Callable[[Sequence[int]], str] = lambda rows: "",
) -> list[str | None]:
    """Deal whole groups to parts.

    Groups come in the order of a hash of split_seed and their smallest id; each part in turn takes every group that
    still fits. Groups of one therefore meet the sizes exactly, and the first part does not depend on how many follow.

    Args:
        ids: Example id of each row, unique, shape (rows,).
        groups: Group number of each row, shape (rows,).
        sizes: Rows for each part, in the order of dealing.
        split_seed: Another seed deals other rows.
        tied_by: Says for the message what ties the rows (of the largest group, by their positions), and the cure.

    Returns:
        The part of each row; None for rows left over.

    Raises:
        DataError: Groups are so large that a part falls short of its size by more than a tenth.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    waiting = sorted(members.values(), key=lambda rows: seeded_hash(split_seed, "part", min(ids[row] for row in rows)))
    largest = max(waiting, key=len, default=[])

    parts: list[str | None] = [None] * len(ids)
    for part, size in sizes.items():
        room, left = size, []
        for i, rows in enumerate(waiting):
            if room == 0:
                left += waiting[i:]
                break
            if len(rows) > room:
                left.append(rows)
                continue
            room -= len(rows)
            for row in rows:
                parts[row] = part
        waiting = left
        if room > max(1, size // 10) or room == size:
            raise DataError(
                f"part {part} should have {size} examples, but rows that belong together stay together and leave only"
                f" {size - room} for it: the largest group has {len(largest)} of {len(ids)} rows{tied_by(largest)}"
            )
    return parts


def cap(ids: Sequence[str], size: int, split_seed: int) -> set[str]:
    """The `size` ids (or all, if there are fewer) that come first in the order of a hash of split_seed and id."""
    return set(sorted(ids, key=lambda example_id: seeded_hash(split_seed, "cap", example_id))[:size])


def _round_to_sum(asked: Mapping[str, float]) -> dict[str, int]:
    """Round down, then give what is missing from the rounded-down total to the largest remainders, earlier parts
    first."""
    nearly = 1e-9 * sum(asked.values())  # 0.4 * 1000 must count as 400, and shares that sum to 1 as the whole pool
    sizes = {part: math.floor(size + nearly) for part, size in asked.items()}
    missing = math.floor(sum(asked.values()) + nearly) - sum(sizes.values())
    for part in sorted(asked, key=lambda part: sizes[part] - asked[part])[:missing]:
        sizes[part] += 1
    return sizes
