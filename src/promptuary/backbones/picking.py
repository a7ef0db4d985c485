"""The next token of each row of a draft, as its own `Generation` says: what `generate` would pick for the row alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from promptuary.backbones.generation import Generation, Sampling
from promptuary.errors import SettingError


@dataclass(frozen=True, eq=False)
class Pen:
    """How one row is written: its rules, and the draws that are its own.

    Raises:
        SettingError: for beams, which are not picked token by token, and for several texts of one row.
    """

    how: Generation
    draws: torch.Generator | None

    def __post_init__(self) -> None:
        if self.how.beams > 1 or self.how.sequences > 1:
            raise SettingError(
                f"Generation(beams={self.how.beams}, sequences={self.how.sequences}): token by token there is one text "
                "and no beam. Write beams=1, sequences=1."
            )


def pen(how: Generation, device: torch.device) -> Pen:
    """A row's own pen. Without a seed the draws begin anywhere."""
    if how.sampling is None:
        return Pen(how, None)
    draws = torch.Generator(device)
    if how.sampling.seed is None:
        draws.seed()
    else:
        draws.manual_seed(how.sampling.seed)
    return Pen(how, draws)


def picked(
    scores: Float[Tensor, "rows vocabulary"], pens: Sequence[Pen], written: Sequence[Sequence[int]]
) -> list[int | Exception]:
    """The next token of each row, or what went wrong with this row: then the others have theirs all the same.

    Arguments:
        written: the tokens of each row so far.
    """
    scores, failed = scores.float(), dict[int, Exception]()
    bounded = [n for n, p in enumerate(pens) if p.how.allowed is not None]
    if bounded:
        scores = scores.clone()
    for n in bounded:
        try:
            scores[n] = _allowed(scores[n], pens[n], written[n])
        except Exception as error:
            failed[n] = error
    ids: list[int | Exception] = scores.argmax(1).tolist()
    drawn = sorted((n for n, p in enumerate(pens) if p.how.sampling is not None), key=lambda n: _rules(pens[n]))
    for _, group in groupby(drawn, key=lambda n: _rules(pens[n])):
        numbers = list(group)
        for n, shares in zip(numbers, _shares(scores[numbers], pens[numbers[0]].how.sampling), strict=True):
            try:
                ids[n] = int(torch.multinomial(shares[None], 1, generator=pens[n].draws))
            except RuntimeError as error:  # scores that are no numbers
                failed[n] = error
    return [failed.get(n, token) for n, token in enumerate(ids)]


def _rules(p: Pen) -> tuple[float, int, float]:
    assert p.how.sampling is not None
    return p.how.sampling.temperature, p.how.sampling.top_k, p.how.sampling.top_p


def _shares(scores: Float[Tensor, "rows vocabulary"], sampling: Sampling | None) -> Float[Tensor, "rows vocabulary"]:
    """The probability of each token under the rules of sampling, in the order of transformers."""
    assert sampling is not None
    rules = LogitsProcessorList()
    if sampling.temperature != 1.0:
        rules.append(TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        rules.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        rules.append(TopPLogitsWarper(sampling.top_p))
    before = torch.zeros(len(scores), 0, dtype=torch.long, device=scores.device)  # of no account to these rules
    shares: Tensor = rules(cast("torch.LongTensor", before), cast("torch.FloatTensor", scores)).softmax(1)
    return shares


def _allowed(scores: Float[Tensor, " vocabulary"], p: Pen, written: Sequence[int]) -> Float[Tensor, " vocabulary"]:
    assert p.how.allowed is not None
    told = torch.tensor(p.how.allowed(written), device=scores.device)
    return torch.full_like(scores, -torch.inf).index_copy(0, told, scores[told])
