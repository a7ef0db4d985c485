"""What a user has on the disk, in small: models with tokenizers as folders, data files, and a command line to run."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import html5lib
import torch
from typer.testing import CliRunner, Result

from promptuary.cli import app
from tests.backbones import FAMILIES
from tests.unit.data.vocabularies import bert, gpt2, llama, roberta, t5

VOCABULARIES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"bart": roberta, "bert": bert, "deberta": bert, "gpt2": gpt2, "llama": llama, "t5": t5}
)
SHORT = ("--epochs", "1", "--batch", "8")
TEXTS = {"good": ("I like this box", "the best flat I had"), "bad": ("the glass lid broke", "I want my money back")}


def command(*arguments: Any) -> Result:
    """Run the command line in this process. A bug of the library is raised here; a told mistake is an exit code."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="promptuary")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(*arguments: Any) -> str:
    """Run a command that must succeed; what it printed on standard output."""
    result = command(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def refused(*arguments: Any) -> str:
    """Run a command that must be refused: exit code 2 and one sentence, which is returned."""
    result = command(*arguments)
    assert result.exit_code == 2, result.stdout + result.stderr
    assert result.stdout == ""
    last = result.stderr.rstrip("\n").split("\n")[-1]
    assert last.startswith(("promptuary: ", "Error: ")), result.stderr
    assert "Traceback" not in result.stderr
    return last


def save(family: str, folder: Path, *, seed: int = 20, **sizes: int) -> Path:
    """A random model of the family and its tokenizer, as save_pretrained leaves them; `sizes` are other ones."""
    tokenizer, known = VOCABULARIES[family](), FAMILIES[family]
    ids = {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("pad", "bos", "eos")}
    special = {name: number for name, number in ids.items() if number is not None}
    made = known.config(**{**known.settings, **sizes, **special, "vocab_size": len(tokenizer)})
    made.architectures = [known.model.__name__]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = known.model(made)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def valid(page: str) -> None:
    """Fail at the first error against the standard that an HTML5 parser finds in a page."""
    html5lib.HTMLParser(strict=True).parse(page)


def opinions(count: int, *, start: int = 0) -> list[dict[str, Any]]:
    """Rows of two classes; the column `id` says which row it is."""
    labels = sorted(TEXTS)
    return [
        {"id": i, "text": f"{TEXTS[labels[i % 2]][i // 2 % 2]} {'very ' * (i % 5)}much", "label": labels[i % 2]}
        for i in range(start, start + count)
    ]


@dataclass(frozen=True)
class Shelf:
    """A folder with models by family, `train.jsonl`, `dev.jsonl`, and the prompts tuned so far."""

    place: Path

    @property
    def train(self) -> Path:
        return self.place / "train.jsonl"

    @property
    def dev(self) -> Path:
        return self.place / "dev.jsonl"

    def model(self, family: str) -> Path:
        folder = self.place / family
        return folder if folder.is_dir() else save(family, folder)

    def options(self, family: str, method: str, out: Path) -> list[Any]:
        """A whole `tune` command."""
        data = ["--train", self.train, "--validation", self.dev]
        return ["tune", "--backbone", self.model(family), *data, "--method", method, *SHORT, "--out", out]

    def prompt(self, family: str, method: str) -> Path:
        """A tuned prompt; leave it as it is."""
        out = self.place / "prompts" / family / method
        if not out.is_dir():
            done(*self.options(family, method, out))
        return out
