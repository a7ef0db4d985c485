"""How text is generated, as one value, and the one call of transformers' `generate` that obeys it alone."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from promptuary.errors import SettingError

_settings: Callable[..., GenerationConfig] = GenerationConfig


@dataclass(frozen=True)
class Sampling:
    """Draw each token at random, instead of taking the most probable one.

    Arguments:
        temperature: divides the scores.
        top_k: only the k most probable tokens; 0 is no limit.
        top_p: only the most probable tokens that together reach this probability.
        seed: of the draws; `None` draws from torch's global generator.

    Raises:
        SettingError: for numbers out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise SettingError(
                f"Sampling(temperature={self.temperature}): expected a number above 0. "
                "For the most probable token leave sampling out."
            )
        if self.top_k < 0:
            raise SettingError(f"Sampling(top_k={self.top_k}): expected 0 (no limit) or more.")
        if not 0 < self.top_p <= 1:
            raise SettingError(f"Sampling(top_p={self.top_p}): expected a share above 0, up to 1.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise SettingError(f"Sampling(seed={self.seed}): expected a whole number of 64 bits.")


@dataclass(frozen=True)
class Generation:
    """How text is generated. The defaults of the model's own generation file do not apply, except its end tokens.

    Arguments:
        max_new_tokens: the longest text.
        beams: how many candidates are followed; 1 is greedy.
        sampling: how tokens are drawn; `None` takes the most probable.
        sequences: texts returned for each row, one after another.
        end: tokens that end a text; `None` is the model's own, an empty tuple is none.
        pad: what stands behind a text that ended; `None` is the model's own, or the first end token.
        cache: `static` allots the longest text at once; `none` computes everything anew (encoder-decoders only).
        allowed: which tokens may follow those generated so far; `None` is all. It must never answer with none.

    Raises:
        SettingError: for numbers out of range, or more sequences than beams without sampling.
    """

    max_new_tokens: int = 32
    beams: int = 1
    sampling: Sampling | None = None
    sequences: int = 1
    end: tuple[int, ...] | None = None
    pad: int | None = None
    cache: Literal["dynamic", "static", "none"] = "dynamic"
    allowed: Callable[[Sequence[int]], list[int]] | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "beams", "sequences"):
            if getattr(self, name) < 1:
                raise SettingError(f"Generation({name}={getattr(self, name)}): expected 1 or more.")
        if self.cache not in ("dynamic", "static", "none"):
            raise SettingError(f"Generation(cache={self.cache!r}): expected 'dynamic', 'static' or 'none'.")
        if self.sampling is None and self.sequences > self.beams:
            raise SettingError(
                f"Generation(sequences={self.sequences}, beams={self.beams}): without sampling there are as many texts "
                f"as beams. Write beams={self.sequences}, or sampling=Sampling()."
            )


def generate(model: PreTrainedModel, how: Generation, *, start: int, **arguments: Any) -> Int[Tensor, "rows steps"]:
    """The texts alone: `start` is how many ids the model puts before them (an encoder-decoder's start token)."""
    # A view of the model with a generation config of its own: what a model's file sets there (BART forces an end
    # token, chat models sample) can otherwise only be overwritten where its neutral value is not None.
    view: Any = copy.copy(model)
    view.generation_config = _settings()
    allowed = how.allowed
    if allowed is not None:
        arguments["prefix_allowed_tokens_fn"] = lambda _, ids: allowed(ids[start:].tolist())
    with torch.no_grad(), _seeded(how.sampling, model.device):
        ids: Tensor = view.generate(generation_config=_config(model, how), **arguments)
    return ids[:, start:]


def ends(how: Generation, model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens that end a text."""
    end = how.end if how.end is not None else model.generation_config.eos_token_id
    return (end,) if isinstance(end, int) else tuple(end or ())


@contextmanager
def _seeded(drawn: Sampling | None, device: torch.device) -> Iterator[None]:
    """Draws by the seed, if there is one, and torch's generators afterwards as they were."""
    if drawn is None or drawn.seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(drawn.seed)
        yield


def fits(needed: int, positions: int | None, name: str) -> None:
    """Raise `SettingError` where a text would run past the last position of the model called `name`."""
    if positions is not None and needed > positions:
        raise SettingError(
            f"The input and the text to be generated need {needed} positions; {name!r} has {positions}. "
            f"Shorten the input or the prompt, or lower max_new_tokens by {needed - positions}."
        )


def _config(model: PreTrainedModel, how: Generation) -> GenerationConfig:
    own, known = model.generation_config, model.config
    end = ends(how, model)
    pads = [how.pad, own.pad_token_id, getattr(known, "pad_token_id", None), *end, 0]
    drawn = how.sampling
    return _settings(
        max_new_tokens=how.max_new_tokens,
        num_beams=how.beams,
        num_return_sequences=how.sequences,
        eos_token_id=list(end) or None,
        pad_token_id=next(pad for pad in pads if pad is not None),
        decoder_start_token_id=getattr(known, "decoder_start_token_id", None),
        use_cache=how.cache != "none",
        cache_implementation="static" if how.cache == "static" else None,
        do_sample=drawn is not None,
        # Compiling the whole model for one call of `generate` costs minutes; serving compiles once, by itself.
        disable_compile=True,
        **({} if drawn is None else {"temperature": drawn.temperature, "top_k": drawn.top_k, "top_p": drawn.top_p}),
    )
