"""Every hand-made mutant is still one place of the code: one that is nowhere proves nothing."""

from tests.mutants import MUTANTS, PACKAGE, ROOT


def test_every_mutant_is_one_place_of_the_code_and_names_tests_that_are_there() -> None:
    known = {m.file: (ROOT / PACKAGE / m.file).read_text(encoding="utf-8") for m in MUTANTS}
    assert [(m.file, m.old) for m in MUTANTS if known[m.file].count(m.old) != 1] == []
    assert [m.file for m in MUTANTS if m.old == m.new or not all((ROOT / t).is_file() for t in m.tests)] == []
