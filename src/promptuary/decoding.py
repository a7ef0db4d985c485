"""From a model that writes to classes, in four ways.

`free` lets the model write and takes what it wrote at its word, as Lester et al. 2021 do: a text that is no label
is wrong. `rank` asks which label the model finds most probable; `calibrated`, which one the input makes more probable
than an input without content does (contextual calibration, Zhao et al. 2021). `constrained` lets it write, but only
labels. A model that never learned to write labels scores 0 by the first and something by the others: report which was
used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from promptuary.backbones.generation import Generation
from promptuary.errors import SettingError
from promptuary.model import SoftPrompted
from promptuary.readouts import WordsAsContinuation, log_prior
from promptuary.readouts.words import Combination
from promptuary.values import Instance


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of a task as texts and as token ids.

    Arguments:
        texts: what the model must write, letter by letter, for each class.
        ids: the same as token ids, as the model would generate them, with or without the end token.
        end: the token that ends a text.
        decode: from token ids (up to the end token) to text; this file knows no tokenizer.
        prior: the log-probability of each label without content, by which `rank` divides; see `calibrated`.

    Raises:
        SettingError: for fewer than two labels, texts and ids of different number, an empty label, or two equal ones.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    end: int
    decode: Callable[[Sequence[int]], str]
    prior: Float[Tensor, " classes"] | None = None

    def __post_init__(self) -> None:
        if len(self.texts) < 2 or len(self.texts) != len(self.ids):
            raise SettingError(
                f"Labels: {len(self.texts)} texts and {len(self.ids)} lists of token ids. "
                "Expected one of each for every class, and two classes or more."
            )
        if () in self.bare:
            raise SettingError(f"Labels(ids=...): label {self.bare.index(())} has no token ids. Expected one or more.")
        for name, values in (("texts", self.texts), ("ids", self.bare)):
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise SettingError(f"Labels({name}=...): {twice[0]!r} is there twice. Expected every label to differ.")

    @property
    def bare(self) -> tuple[tuple[int, ...], ...]:
        """The token ids without the end token."""
        return tuple(_until(ids, self.end) for ids in self.ids)


@dataclass(frozen=True, eq=False)
class Decoded:
    """What was decoded.

    Arguments:
        label: class of each row; -1 where the text is no label.
        texts: the text of each row.
        probability: of every class, among the labels; `None` where the labels were not ranked.
    """

    label: Int[Tensor, " batch"]
    texts: tuple[str, ...]
    probability: Float[Tensor, "batch classes"] | None = None

    @property
    def illegal(self) -> float:
        """Share of rows whose text is no label."""
        return float((self.label == -1).float().mean())


def free(model: SoftPrompted, x: Instance, labels: Labels, *, max_new_tokens: int | None = None) -> Decoded:
    """Greedy generation; the text must be a label letter by letter or token by token, else the row's class is -1.

    By tokens, since a tokenizer may not give back a label as it was learnt (characters it does not know, capitals).

    Arguments:
        max_new_tokens: where a text is cut; by default just behind the longest label, since more cannot be right.
    """
    how = Generation(max_new_tokens=max_new_tokens or max(map(len, labels.bare)) + 1, end=(labels.end,))
    said = generated(model, x, how, labels.end)
    texts = tuple(labels.decode(ids) for ids in said)
    by_ids, by_text = ({own: i for i, own in enumerate(all_of)} for all_of in (labels.bare, labels.texts))
    label = [by_ids.get(ids, by_text.get(text, -1)) for ids, text in zip(said, texts, strict=True)]
    return Decoded(torch.tensor(label, device=x.ids.device), texts)


def rank(model: SoftPrompted, x: Instance, labels: Labels, *, per_token: bool = False) -> Decoded:
    """The label of the highest log-probability, summed over its token ids as given; one pass scores all labels.

    Arguments:
        per_token: divide by the number of tokens, so that long labels are not at a disadvantage.
    """
    scores = _scores(model, x, labels, "mean" if per_token else "sum")
    label = scores.argmax(1)
    return Decoded(label, tuple(labels.texts[i] for i in label.tolist()), scores.softmax(1))


def calibrated(model: SoftPrompted, empty: Instance, labels: Labels) -> Labels:
    """The labels with the prior they have on inputs without content, such as "N/A"."""
    return replace(labels, prior=log_prior(_scores(model, empty, replace(labels, prior=None), "sum")))


def _scores(model: SoftPrompted, x: Instance, labels: Labels, tokens: Combination) -> Float[Tensor, "batch classes"]:
    words = WordsAsContinuation([[ids] for ids in labels.ids], tokens=tokens, prior=labels.prior).to(x.ids.device)
    with torch.no_grad():
        return words.scores_of(model(x, words.choices(len(x.ids)), x.ids[:, :0]))


def constrained(model: SoftPrompted, x: Instance, labels: Labels, *, beams: int = 1) -> Decoded:
    """Generation that may only spell a label and end there. Greedy, it decides at the first token that differs."""
    bare = labels.bare
    following = _trie(bare, labels.end)
    how = Generation(
        max_new_tokens=max(map(len, bare)) + 1,
        beams=beams,
        end=(labels.end,),
        allowed=lambda ids: following.get(tuple(ids), [labels.end]),
    )
    label = [bare.index(ids) for ids in generated(model, x, how, labels.end)]
    return Decoded(torch.tensor(label, device=x.ids.device), tuple(labels.texts[i] for i in label))


MODES: Mapping[str, Callable[[SoftPrompted, Instance, Labels], Decoded]] = MappingProxyType(
    {"free": free, "rank": rank, "calibrated": rank, "constrained": constrained}
)


def _trie(texts: Sequence[tuple[int, ...]], end: int) -> dict[tuple[int, ...], list[int]]:
    """Which tokens may follow each beginning of a text; `end` follows a whole one."""
    following: dict[tuple[int, ...], list[int]] = {}
    for text in texts:
        for n, token in enumerate((*text, end)):
            known = following.setdefault(text[:n], [])
            if token not in known:
                known.append(token)
    return following


@dataclass(frozen=True, eq=False)
class Writing:
    """How the answers of a task are written, and what the token ids that were written say, row by row."""

    how: Generation
    said: Callable[[Int[Tensor, "rows steps"]], list[Any]]


def generated(model: SoftPrompted, x: Instance, how: Generation, end: int) -> list[tuple[int, ...]]:
    """The token ids of each row's text, without its end."""
    with torch.no_grad():
        return ended(model.backbone.generate(model.call(x), how), end)


def ended(ids: Int[Tensor, "rows steps"], end: int) -> list[tuple[int, ...]]:
    """The token ids of each row up to its end."""
    return [_until(row, end) for row in ids.tolist()]


def _until(ids: Sequence[int], end: int) -> tuple[int, ...]:
    return tuple(ids[: ids.index(end)] if end in ids else ids)
