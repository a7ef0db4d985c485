"""One that cannot be worked on fails alone, wherever it stands."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from promptuary.serve.apart import apart


@given(st.lists(st.booleans(), min_size=1, max_size=20))
def test_whoever_is_to_blame_fails_alone_and_the_order_stays(good: list[bool]) -> None:
    begun: list[Sequence[int]] = []
    blamed: dict[int, str] = {}

    def work(items: Sequence[int]) -> list[int]:
        begun.append(items)
        if bad := [n for n in items if not good[n]]:
            raise ValueError(f"number {bad[0]}")
        return [10 * n for n in items]

    found = [
        pair
        for items, said in apart(range(len(good)), work, lambda n, error: blamed.update({n: str(error)}))
        for pair in zip(items, said, strict=True)
    ]
    assert found == [(n, 10 * n) for n, fine in enumerate(good) if fine]
    assert blamed == {n: f"number {n}" for n, fine in enumerate(good) if not fine}
    assert len(begun) == 1 or not all(good)


def test_what_is_done_with_an_answer_is_not_blamed_on_the_work() -> None:
    seen = []
    for items, _ in apart([1, 2, 3], len, lambda *_: seen.append("blamed")):
        seen.append(str(list(items)))
    assert seen == ["[1, 2, 3]"]
