"""What a run tells: lines where nobody watches, a bar in a terminal."""

import io
from typing import IO

from promptuary.train.alarms import Alarm
from promptuary.train.progress import Progress, Silent, Terminal


def told(progress: Progress) -> None:
    progress.begin(10, 3)
    progress.stepped(4, 0.5)
    progress.scored(4, {"accuracy": 0.75}, "accuracy", True)
    progress.stepped(5, 0.4)
    progress.scored(5, {"accuracy": 0.5}, "accuracy", False)
    progress.alarmed(Alarm("still", "The loss [does] not fall."))
    progress.end()


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().splitlines()


def test_a_file_gets_plain_lines() -> None:
    file = io.StringIO()
    told(Terminal("seed 0", file))
    assert lines(file) == [
        "seed 0: goes on after step 3 of 10",
        "seed 0: step 4/10  loss 0.5000  validation accuracy 0.7500 (best)",
        "seed 0: step 5/10  loss 0.4000  validation accuracy 0.5000",
        "seed 0: still: The loss [does] not fall.",
    ]


def test_a_run_that_was_finished_is_said_to_be() -> None:
    file = io.StringIO()
    Terminal("seed 0", file).begin(10, 10)
    assert lines(file) == ["seed 0: had finished its 10 steps before"]


def test_a_terminal_gets_a_bar_with_loss_and_best_score() -> None:
    file = Screen()
    told(Terminal("seed 0", file))
    shown = " ".join(lines(file))
    assert "loss 0.4000" in shown
    assert "best validation accuracy 0.7500" in shown
    assert "5/10" in shown
    assert "The loss [does] not fall." in shown


def test_silence_says_nothing(capsys: object) -> None:
    told(Silent())
    assert capsys.readouterr() == ("", "")  # type: ignore[attr-defined]
