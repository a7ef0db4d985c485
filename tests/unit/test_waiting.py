"""Which rows share the next pass: nobody is forgotten, no limit is passed, and padding is weighed against passes."""

from hypothesis import given
from hypothesis import strategies as st

from promptuary.serve.waiting import chosen

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def cost(lengths: list[int], alone: int) -> float:
    """What a pass of these rows costs for each of its tokens."""
    return (alone + len(lengths) * max(lengths)) / sum(lengths)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 300), st.integers(0, 100))
def test_the_row_that_waits_longest_goes_and_no_limit_is_passed(
    lengths: list[int], rows: int, tokens: int, alone: int
) -> None:
    numbers = chosen(lengths, rows=rows, tokens=tokens, alone=alone)
    assert 0 in numbers
    assert len(set(numbers)) == len(numbers) <= rows
    own = [lengths[n] for n in numbers]
    assert len(own) == 1 or len(own) * max(own) <= tokens
    between = [n for n in lengths if min(own) < n < max(own)]
    assert sorted(n for n in own if min(own) < n < max(own)) == sorted(between)


@given(LENGTHS, st.integers(0, 100))
def test_no_other_neighbours_of_it_would_cost_less_for_each_token(lengths: list[int], alone: int) -> None:
    own = [lengths[n] for n in chosen(lengths, rows=40, tokens=10_000, alone=alone)]
    order = sorted(lengths)
    first = order.index(lengths[0])  # of rows of its length it counts as the first
    windows = [order[i:j] for i in range(first + 1) for j in range(first + 1, len(order) + 1)]
    assert cost(own, alone) <= min(cost(window, alone) for window in windows) + 1e-9


@given(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(1, 5))
def test_a_row_waits_for_no_more_passes_than_rows_came_before_it(lengths: list[int], rows: int) -> None:
    waiting, passes = list(range(len(lengths))), 0
    while waiting:
        taken = {waiting[n] for n in chosen([lengths[i] for i in waiting], rows=rows, tokens=100)}
        assert all(passes <= row for row in taken)
        waiting, passes = [i for i in waiting if i not in taken], passes + 1


def test_short_rows_do_not_go_with_a_long_one_unless_passes_are_dear() -> None:
    lengths = [100, 5, 6, 5, 90, 6]
    assert sorted(chosen(lengths, rows=10, tokens=5000, alone=50)) == [0, 4]
    assert sorted(chosen(lengths, rows=10, tokens=5000, alone=100_000)) == [0, 1, 2, 3, 4, 5]
    assert chosen(lengths, rows=1, tokens=5000) == [0]
    assert chosen([700, 5], rows=4, tokens=500) == [0]
