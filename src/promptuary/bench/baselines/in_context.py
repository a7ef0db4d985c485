"""Few-shot prompting of the frozen model: rows with their answers stand before the row that is asked.

Which rows, and in which order, moves the answer a great deal (Lu et al. 2022), so both are drawn by the setting `order`
and chosen, like any other setting, by the rows that select; answers are calibrated by an input without content (Zhao et
al. 2021).
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from promptuary.bench.baselines.asked import asked
from promptuary.bench.contender import Answers, Contender, Cost, Learned
from promptuary.bench.grounds import Ground
from promptuary.data.source import Row
from promptuary.data.task import Task, written
from promptuary.errors import BackboneError
from promptuary.train.progress import Progress

COLUMN, BETWEEN = "demonstrations", "\n\n"
SPARE = 8  # tokens: what is between demonstrations and row, and the longest label word
FIELD = re.compile(r"\{(\w+)\}")


class InContext(Contender):
    """`shots` rows of every class (in all, where texts are written), drawn and ordered by `order` (and by the seed)."""

    name = "in-context"
    summary = "rows with their answers before the row, nothing trained"
    source = "Brown et al. 2020; order: Lu et al. 2022 (arXiv 2104.08786); calibration: Zhao et al. 2021 (2102.09690)"
    space = MappingProxyType({"order": tuple(range(8)), "shots": (1, 2, 4), "calibrated": (True, False)})
    default = MappingProxyType({"order": 0, "shots": 2, "calibrated": True})
    kinds = frozenset({"classification", "text"})

    def learn(
        self, ground: Ground, settings: Mapping[str, Any], *, seed: int, folder: Path, progress: Progress | None = None
    ) -> Learned:
        if not ground.backbone.shape.decodes:
            raise BackboneError(
                f"{ground.backbone.name!r} does not write, so it is asked nothing in context. Leave 'in-context' out, "
                "or use 'zero-shot' with a cloze."
            )
        chosen: dict[str, Any] = {**self.default, **settings}
        text, tokens = self.demonstrations(ground, chosen["shots"], f"{seed}/{chosen['order']}")

        def shown(rows: Sequence[Row]) -> list[Row]:
            return [replace(row, fields={**row.fields, COLUMN: text}) for row in rows]

        longest = ground.run().max_length
        more: dict[str, Any] = {"template": f"{{{COLUMN}}}{BETWEEN}{_template(ground)}"}
        more |= {} if longest is None else {"max_length": longest + tokens}
        place = replace(
            ground, train=shown(ground.train), selection=shown(ground.selection), asked={**ground.asked, **more}
        )
        plain = asked(place, calibrated=chosen["calibrated"])

        def answer(rows: Sequence[Row]) -> Answers:
            return plain(shown(rows))

        cost = Cost(stored=len(text.encode()))
        scores = ground.scores(ground.selection, answer(ground.selection))
        return Learned(scores, answer, cost, recipe={"demonstrations": text})

    def demonstrations(self, ground: Ground, shots: int, seed: str) -> tuple[str, int]:
        """Rows that teach, as the template writes them, each with its answer, and how many tokens they are.

        The last ones are left out where they would not leave the row its `max_length` (half of the room without one).
        """
        draw = random.Random(f"in-context/{seed}")
        task, answer, pools = ground.task, _answer(ground), dict[int, list[Row]]()
        for row in ground.train:
            pools.setdefault(task.index(row) if _classes(task) else 0, []).append(row)
        rows = [row for _, pool in sorted(pools.items()) for row in draw.sample(pool, min(shots, len(pool)))]
        draw.shuffle(rows)
        told = [f"{_filled(_template(ground), task, row)} {answer(row)}" for row in rows]
        room, tokenizer = ground.backbone.shape.positions, ground.backbone.tokenizer
        run = ground.run()
        written_after = 0 if _classes(task) else run.max_new_tokens
        left = None if room is None else room // 2
        if room is not None and run.max_length is not None:
            left = room - run.max_length - written_after
        while told and left is not None and _size(tokenizer, told) > left:
            told.pop()
        return BETWEEN.join(told), _size(tokenizer, told)


def _size(tokenizer: Any, told: Sequence[str]) -> int:
    """Tokens of demonstrations, with some to spare for what stands around them."""
    return len(tokenizer(BETWEEN.join(told)).input_ids) + SPARE


def _classes(task: Task) -> bool:
    return task.kind == "classification"


def _answer(ground: Ground) -> Callable[[Row], str]:
    """What is the answer of a labelled row, as text: the word of its class, or its text."""
    task = ground.task
    if not _classes(task):
        return lambda row: written(row, str(task.label))
    words = [own[0] for own in ground.reading(readout="verbalizer").words]  # type: ignore[attr-defined]
    return lambda row: words[task.index(row)]


def _template(ground: Ground) -> str:
    """The task's template, or its texts one after the other."""
    own = ground.run().template
    return own if own is not None else "{text}" if ground.task.text_pair is None else "{text} {pair}"


def _filled(template: str, task: Task, row: Row) -> str:
    """A template with the texts of a row in its holes."""
    columns = {"text": task.text, "pair": task.text_pair}

    def text(hole: "re.Match[str]") -> str:
        return written(row, columns.get(hole[1]) or hole[1]).strip()

    return FIELD.sub(text, template)
