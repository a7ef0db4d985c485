"""Many tasks from one frozen model: each row names the prompt that answers it, and rows of all prompts share passes.

Adding a prompt or taking one away touches nothing else, and a batch asks only for those prompts its rows name.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from promptuary.backbones.backbone import Backbone
from promptuary.data.batch import Batch
from promptuary.data.collate import within
from promptuary.data.source import Row
from promptuary.errors import DataError, SettingError, nearest
from promptuary.kinds import Kind
from promptuary.mixing import run
from promptuary.sharing import Asked, alike, batched, read, shares, together, written
from promptuary.train.evaluation import Pairs, arithmetic, on_cpu, unmoved_randomness
from promptuary.tuned import Tuned, open_prompt

TOKENS = 1024  # on a CPU larger batches are slower (`benchmarks/speed/mixed.py`); a GPU has room for more
WINDOW = 1024


class Bank:
    """Tuned prompts on one frozen model, by name. They may differ in method, length, kind of task and read-out.

    Arguments:
        backbone: the loaded model that all of them belong to.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._prompts: dict[str, Tuned] = {}

    def __len__(self) -> int:
        return len(self._prompts)

    def __contains__(self, name: str) -> bool:
        return name in self._prompts

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __getitem__(self, name: str) -> Tuned:
        """The prompt of that name.

        Raises:
            SettingError: where there is none, with the nearest name.
        """
        found = self._prompts.get(name)
        if found is None:
            raise SettingError(self._missing(name))
        return found

    def _missing(self, name: str) -> str:
        return f"There is no prompt {name!r} in this bank. {nearest(name, self)}"

    def add(self, name: str, tuned: Tuned) -> None:
        """Put a prompt in, in the place of one of this name.

        Raises:
            SettingError: for a prompt that was opened on another loaded model.
        """
        if tuned.backbone is not self.backbone:
            raise SettingError(
                f"Prompt {name!r} has a model of its own in memory ({tuned.backbone.name!r}); a bank has one for all. "
                "Open it on the bank's: open_prompt(folder, backbone=bank.backbone)."
            )
        self._prompts[name] = tuned

    def remove(self, name: str) -> None:
        """Take a prompt out.

        Raises:
            SettingError: where there is none of this name.
        """
        if name not in self:
            raise SettingError(self._missing(name))
        del self._prompts[name]

    def predict(self, asked: Iterable[tuple[str, Row]], *, tokens: int = TOKENS) -> Iterator[Any]:
        """The answer for each row of the prompt that is named with it, in order, as `Tuned.predict` gives it.

        Memory is constant: 1,024 rows are held. Of these, rows of similar length go together, whatever their prompt;
        soft tokens count. Prompts that write answers of the same length share passes, those that read states do, and
        those of one precision.

        Arguments:
            tokens: of a batch, padding counted.

        Raises:
            DataError: for a name that is not in the bank, a row without a text, or one that is too long.
        """
        remaining = iter(asked)
        while held := list(islice(remaining, WINDOW)):
            said: dict[int, Any] = {}
            for batch in self._batches(self._encoded(held), tokens, writes=True):
                with self._ready(batch):
                    writes = batch[0].tuned.reading.writing(self.backbone) is not None
                    said.update((one.number, answer) for one, answer in (written if writes else read)(batch))
            yield from (said[number] for number in range(len(held)))

    def outputs(self, rows: Iterable[Row], *, by: str, tokens: int = TOKENS) -> Iterator[dict[str, Any]]:
        """The fields of each row's answer, as `promptuary predict` writes them; else as `predict`.

        Arguments:
            by: the column that names the prompt.

        Raises:
            DataError: for a row without that column; and as `predict`.
        """
        readings: deque[Kind] = deque()  # of rows that were read and are not answered yet

        def asked() -> Iterator[tuple[str, Row]]:
            for row in rows:
                if by not in row.fields:
                    raise DataError(f"{row.place}: there is no column {by!r}. {nearest(by, row.fields)}")
                name = str(row.fields[by])
                readings.append(self._named(name, row).reading)
                yield name, row

        for answer in self.predict(asked(), tokens=tokens):
            yield readings.popleft().output(answer)

    def evaluate(self, data: Mapping[str, Iterable[Row]], *, tokens: int = TOKENS) -> dict[str, dict[str, Any]]:
        """Scores of each prompt on its labelled rows, as `Tuned.evaluate` gives them; rows of all share batches.

        Raises:
            SettingError: for a name that is not in the bank.
            DataError: for a row without a text or a known label.
        """
        given = {name: list(rows) for name, rows in data.items()}
        asked = {name: self._taught(name, self[name], rows) for name, rows in given.items()}
        pairs: dict[str, list[tuple[Batch, Any]]] = {name: [] for name in given}
        losses: dict[str, list[tuple[float, int]]] = {name: [] for name in given}
        for held in self._batches([one for own in asked.values() for one in own], tokens, writes=False):
            with self._ready(held):
                groups = batched(alike(held))
                for (own, batch), out in zip(groups, run(shares(groups)), strict=True):
                    name, readout = own[0].name, own[0].tuned.readout
                    losses[name].append((float(readout.loss(out, batch)), readout.count(batch)))
                    pairs[name].append((batch.to("cpu"), on_cpu(readout.predict(out, batch))))
        return {name: self._scores(asked[name], pairs[name], losses[name]) for name in given}

    def _named(self, name: str, row: Row) -> Tuned:
        if name not in self:
            raise DataError(f"{row.place}: there is no prompt {name!r}. {nearest(name, self)}")
        return self[name]

    def _encoded(self, held: Sequence[tuple[str, Row]]) -> list[Asked]:
        """Rows as token ids; tokenizers are fast on many texts at once, so each prompt words all its rows together."""
        own: dict[str, list[int]] = {}
        for number, (name, row) in enumerate(held):
            self._named(name, row)
            own.setdefault(name, []).append(number)
        asked = []
        for name, numbers in own.items():
            tuned, rows = self[name], [held[number][1] for number in numbers]
            examples = tuned.wording.encode(rows, labelled=False)
            each = zip(numbers, rows, examples, strict=True)
            asked += [Asked(number, name, tuned, row, example) for number, row, example in each]
        return asked

    def _taught(self, name: str, tuned: Tuned, rows: Sequence[Row]) -> list[Asked]:
        """Labelled rows of one prompt, with all that its loss compares with."""
        examples = tuned.reading.taught(tuned.wording.encode(rows), tuned.wording)
        return [Asked(n, name, tuned, row, e) for n, (row, e) in enumerate(zip(rows, examples, strict=True))]

    def _batches(self, asked: Iterable[Asked], tokens: int, *, writes: bool) -> Iterator[list[Asked]]:
        """Rows that share a pass; `writes` as in `together`."""
        for own in together(asked, writes=writes):
            for numbers in within([one.columns for one in own], tokens):
                yield [own[n] for n in numbers]

    def _scores(self, asked: Sequence[Asked], pairs: Pairs, losses: Sequence[tuple[float, int]]) -> dict[str, Any]:
        tuned, examples = asked[0].tuned, [one.example for one in asked]
        rows = [one.row for one in asked]
        measure = tuned.reading.measure(tuned.model, tuned.readout, tuned.wording, rows, examples)
        with self._arithmetic(tuned):
            scores = measure(pairs)
        answered = sum(count for _, count in losses)
        loss = sum(loss * count for loss, count in losses) / max(1, answered)
        return {**scores, "loss": loss, **tuned.reading.beside(tuned.task, examples), "n": len(examples)}

    def _ready(self, held: Sequence[Asked]) -> AbstractContextManager[None]:
        """Evaluation mode of all prompts that are asked, in their precision, without gradients."""
        for one in held:
            one.tuned.model.eval()
            one.tuned.readout.eval()
        return self._arithmetic(held[0].tuned)

    @contextmanager
    def _arithmetic(self, tuned: Tuned) -> Iterator[None]:
        device = self.backbone.device
        with torch.no_grad(), unmoved_randomness(device), arithmetic(device, tuned.precision):
            yield


def open_bank(
    folders: Mapping[str, Path | str],
    *,
    backbone: Backbone | str | None = None,
    device: torch.device | str = "auto",
) -> Bank:
    """Saved prompts by name, on one loaded model.

    Arguments:
        backbone: a loaded backbone, or the name of one; by default the one that the first prompt was tuned on.
        device: where a backbone that is loaded here runs; `auto` is the GPU where there is one.

    Raises:
        SettingError: for no folders.
        CheckpointError: when a folder is damaged, or was tuned on another backbone.
        BackboneError: when the backbone is not to be had.
    """
    if not folders:
        raise SettingError("A bank needs a prompt or more: open_bank({name: folder}).")
    opened: dict[str, Tuned] = {}
    for name, folder in folders.items():
        opened[name] = open_prompt(folder, backbone=backbone, device=device)
        backbone = opened[name].backbone
    bank = Bank(next(iter(opened.values())).backbone)
    for name, tuned in opened.items():
        bank.add(name, tuned)
    return bank
