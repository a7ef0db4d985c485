"""Near names among few and many."""

import time

from promptuary.errors import nearest


def test_a_misspelt_name_is_found_among_few_and_among_many() -> None:
    assert nearest("mod", ["tags", "mood"]) == "Did you mean 'mood'?"
    assert nearest("ood", ["tags", "mood"]) == "Did you mean 'mood'?"  # wherever the letter is missing
    many = [f"task-{i:05}" for i in range(20_000)] + ["mood", "aaa", "zzz"]
    for wrong, right in (("mod", "mood"), ("aaaa", "aaa"), ("zzzz", "zzz"), ("task-12345x", "task-12345")):
        assert nearest(wrong, many) == f"Did you mean {right!r}?"
    assert nearest("xyz", many).startswith("Known are: aaa, mood, task-00000")


def test_among_many_names_the_nearest_is_told_without_comparing_all() -> None:
    many = [f"{i:05}-{'opinions of a shop' * 3}" for i in range(20_000)]
    nearest("00000-opinions", many[:300])
    began = time.process_time()
    nearest("10000-opinions of shops", many[:300])
    few = time.process_time() - began
    began = time.process_time()
    nearest("10000-opinions of shops", many)
    assert time.process_time() - began < 10 * few + 0.05
