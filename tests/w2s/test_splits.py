"""Groups, part sizes and dealing."""

import random
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w2s.config import SplitSpec
from w2s.errors import DataError
from w2s.tasks.base import REASONS, left_out, normalise
from w2s.tasks.build import Row, build_task
from w2s.tasks.splits import deal, group_rows, part_sizes

# A few letters and bodies make shared texts and groups frequent.
ROWS = st.lists(
    st.builds(
        lambda text, label, group: Row(text=text, label=label, groups=() if group is None else (f"group0:{group}",)),
        st.integers(0, 300).map(lambda i: f"text {i}" if i % 3 else f"  TEXT  {i // 3} "),
        st.integers(0, 1),
        st.none() | st.integers(0, 200),
    ),
    min_size=40,
    max_size=120,
)
SIZES = st.builds(
    SplitSpec,
    supervise=st.just(6),
    transfer=st.just(6),
    validation=st.just(4),
    test=st.just(4),
    split_seed=st.integers(0, 99),
)


def split_or_none(pool, test, splits):
    """A third of such random data has a group that is too large, or one class in some part."""
    try:
        return build_task("classify", pool, test, splits, Counter())
    except DataError:
        return None


def test_rows_are_tied_directly_and_through_others():
    groups = group_rows([["a"], ["b"], ["a", "c"], ["c"], [], ["d", "b"]])
    assert groups[0] == groups[2] == groups[3]
    assert groups[1] == groups[5]
    assert len({groups[0], groups[1], groups[4]}) == 3


def test_no_rows_are_no_groups():
    assert len(group_rows([])) == 0


@settings(max_examples=40)
@given(ROWS, SIZES)
def test_no_id_text_or_group_lies_in_two_parts(pool, splits):
    data = split_or_none(pool, None, splits)
    if data is None:
        return
    assert data.frame["example_id"].is_unique().all()
    part_of = dict(zip(data.frame["text"], data.frame["part"], strict=True))
    seen: dict[str, set[str]] = {}
    for row in pool:
        if row.text in part_of:
            for key in (normalise(row.text), *row.groups):
                seen.setdefault(key, set()).add(part_of[row.text])
    assert all(len(parts) == 1 for parts in seen.values())


@settings(max_examples=40)
@given(ROWS, SIZES, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(pool, splits, shuffler: random.Random):
    shuffled = list(pool)
    shuffler.shuffle(shuffled)
    first, second = split_or_none(pool, None, splits), split_or_none(shuffled, None, splits)
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert first.frame.equals(second.frame)
        assert first.dropped == second.dropped


@settings(max_examples=40)
@given(ROWS, ROWS, SIZES)
def test_no_text_or_group_of_an_official_test_is_left_in_other_parts(pool, test, splits):
    data = split_or_none(pool, test[:5], splits)
    if data is None:
        return
    official = {key for row in test[:5] for key in (normalise(row.text), *row.groups)}
    rest = {row.text: row for row in pool}
    for text in data.frame.filter(data.frame["part"] != "test")["text"]:
        assert official.isdisjoint((normalise(text), *rest[text].groups))


@given(st.integers(20, 400), st.integers(1, 4), st.integers(0, 5))
def test_groups_of_one_meet_the_sizes_exactly_and_other_transfer_parts_move_no_test(n, transfer_parts, seed):
    ids = [f"{i:016x}" for i in range(n)]
    outcome = {}
    for k in (1, transfer_parts):
        splits = SplitSpec(transfer_parts=k, split_seed=seed)
        sizes = part_sizes(n, splits, official_test=False)
        parts = deal(ids, np.arange(n), sizes, seed)
        assert Counter(part for part in parts if part) == Counter(sizes)
        outcome[k] = [i for i, part in enumerate(parts) if part == "test"]
    assert outcome[1] == outcome[transfer_parts]


@pytest.mark.parametrize(
    ("pool", "splits", "official_test", "expected"),
    [
        (1000, {}, False, {"test": 150, "validation": 50, "supervise": 400, "transfer/0": 400}),
        # the defaults' test share, .15, goes to the others
        (850, {}, True, {"validation": 50, "supervise": 400, "transfer/0": 400}),
        (850, {"test": 100}, True, {"validation": 50, "supervise": 400, "transfer/0": 400}),
        # shares written for the pool alone are kept as they are
        (100, {"supervise": 0.45, "transfer": 0.45, "validation": 0.1}, True,
         {"validation": 10, "supervise": 45, "transfer/0": 45}),
        # whole numbers stay whole numbers; transfer parts are of one size
        (50, {"supervise": 10, "transfer": 11, "validation": 2, "test": 5, "transfer_parts": 2}, False,
         {"test": 5, "validation": 2, "supervise": 10, "transfer/0": 5, "transfer/1": 5}),
        # 7 rows: largest remainders win, and all rows are used
        (7, {"supervise": 0.4, "transfer": 0.3, "validation": 0.15, "test": 0.15}, False,
         {"test": 1, "validation": 1, "supervise": 3, "transfer/0": 2}),
    ],
)  # fmt: skip
def test_part_sizes(pool, splits, official_test, expected):
    assert part_sizes(pool, SplitSpec(**splits), official_test=official_test) == expected


def test_a_pool_that_is_too_small_is_refused_with_all_sizes():
    message = r"test 10 \+ validation 5 \+ supervise 60 \+ transfer 40 = 115 examples, but the pool has 100"
    with pytest.raises(DataError, match=message):
        part_sizes(100, SplitSpec(supervise=60, transfer=40, validation=5, test=0.1), official_test=False)


def test_a_part_that_would_be_empty_is_named_with_its_share():
    with pytest.raises(
        DataError, match=r"part validation would get none of the pool's 10 examples \(splits\.validation: 0"
    ):
        part_sizes(10, SplitSpec(validation=0.001), official_test=False)
    with pytest.raises(DataError, match=r"part transfer/0 .*splits\.transfer: 3, in 5 parts"):
        part_sizes(100, SplitSpec(transfer=3, transfer_parts=5), official_test=False)


def test_a_group_too_large_for_its_part_is_named_by_size():
    groups = np.array([0] * 90 + list(range(1, 11)))
    with pytest.raises(
        DataError, match=r"part test should have 40 examples.* only 10 .* largest group has 90 of 100 rows"
    ):
        deal([f"{i:03}" for i in range(100)], groups, {"test": 40}, 0)


def test_another_split_seed_deals_other_rows():
    ids = [f"{i:016x}" for i in range(100)]
    assert deal(ids, np.arange(100), {"test": 50}, 0) != deal(ids, np.arange(100), {"test": 50}, 1)


def rows(labels, prefix="text"):
    return [Row(text=f"{prefix} {i}", label=label) for i, label in enumerate(labels)]


def test_copies_collapse_and_contradicting_copies_go():
    pool = [*rows([0, 1] * 20), Row(text="text 0", label=0), Row(text="text 1", label=0)]
    data = build_task("classify", pool, None, SplitSpec(supervise=10, transfer=10, validation=5, test=10), Counter())
    assert data.dropped == {"duplicates": 1, "contradicting_labels": 2, "not_needed": 4}
    assert "text 1" not in data.frame["text"]


def test_rows_related_to_the_official_test_leave_the_pool_also_when_a_cap_keeps_few_of_it():
    pool = [*rows([0, 1] * 20), Row(text="Exam  3", label=0)]
    for cap, kept in ((20, 20), (8, 8), (1000, 20)):
        data = build_task("classify", pool, rows([0, 1] * 10, "exam"), SplitSpec(test=cap), Counter())
        assert data.dropped["related_to_test"] == 1
        assert len(data.part("test")) == kept
        assert set(data.part("test")["text"]) <= {f"exam {i}" for i in range(20)}


def test_a_one_class_part_is_named():
    pool = rows([1] * 100)
    with pytest.raises(DataError, match="part test has 2 examples, all with label 0: it needs both classes"):
        build_task("classify", [*pool, *rows([0] * 100, "more")], rows([0, 0], "exam"), SplitSpec(), Counter())


def pairs(n):
    return [Row(prompt="", chosen=f"good {i}", rejected=f"bad {i}") for i in range(n)]


def test_which_reply_comes_first_is_balanced_and_independent_of_other_rows():
    frame = build_task("compare", pairs(2000), None, SplitSpec(), Counter()).frame
    # a fair coin 2000 times: the share lies within 4 standard deviations
    assert abs(frame["label"].mean() - 0.5) < 4 * 0.5 / 2000**0.5
    preferred_second = frame["second"].str.starts_with("good")
    assert (preferred_second.cast(int) == frame["label"].cast(int)).all()
    fewer = build_task("compare", pairs(100), None, SplitSpec(), Counter()).frame
    both = fewer.join(frame, on="example_id")
    assert len(both) == 100
    assert (both["first"] == both["first_right"]).all()


def test_a_pair_preferred_both_ways_contradicts_itself():
    pool = [*pairs(40), Row(chosen="bad 3", rejected="good 3")]
    data = build_task("compare", pool, None, SplitSpec(), Counter())
    assert data.dropped["contradicting_labels"] == 2
    assert data.frame.height == 39


def test_pairs_that_share_a_prompt_or_reply_lie_together_but_no_prompt_ties_nothing():
    pool = [Row(prompt=f"question {i // 2}", chosen=f"a{i}", rejected=f"b{i}") for i in range(200)]
    frame = build_task("compare", pool, None, SplitSpec(), Counter()).frame
    assert frame.group_by("prompt").agg(pl.col("part").n_unique())["part"].max() == 1
    assert build_task("compare", pairs(200), None, SplitSpec(), Counter()).frame["part"].n_unique() == 4


def dealt(form, pool, test=None, **sizes):
    return build_task(form, pool, test, SplitSpec(**sizes), Counter())


def test_a_group_too_large_says_what_ties_it_and_what_was_left_out_before():
    shared = [Row(prompt="Say hi", chosen=f"a{i}", rejected=f"b{i}") for i in range(99)]
    message = (
        r"largest group has 99 of 99 rows \(all share the prompt 'say hi'\).*with more different prompts\. Rows left "
    )
    with pytest.raises(DataError, match=message + "out before: 1 duplicates"):
        dealt("compare", [*shared, shared[0]])
    with pytest.raises(DataError, match=r"the value 'x' in a column of columns\.group.*by a column with more values$"):
        dealt("classify", [Row(text=f"t{i}", label=i % 2, groups=("group0:x",)) for i in range(50)])
    with pytest.raises(DataError, match=r"tied one to the next; \d+ share the "):
        dealt("classify", [Row(text=f"t{i}", groups=(f"group0:{i}", f"group0:{i + 1}")) for i in range(50)])


def test_a_pool_that_nothing_is_left_of_says_why():
    both = [Row(text=f"t{i // 2}", label=i % 2) for i in range(1200)]
    with pytest.raises(DataError, match="no row is left to train on; left out: 1,200 with contradicting labels"):
        dealt("classify", both)
    with pytest.raises(DataError, match="all 40 rows to train on are related to the test"):
        dealt("classify", rows([0, 1] * 20), rows([0, 1] * 20))


def test_every_reason_to_leave_a_row_out_has_words():
    assert left_out({"duplicates": 1, "blank": 2, "unlabelled": 1000, "new_reason": 1, "not_needed": 0}) == (
        "1,000 without a label, 2 blank, 1 duplicates, 1 new_reason"
    )
    pool = [*rows([0, 1] * 20), Row(text="text 0", label=0), Row(text="text 1", label=0), Row(text="Exam 0")]
    assert set(dealt("classify", pool, rows([0, 1] * 3, "exam")).dropped) <= set(REASONS)
