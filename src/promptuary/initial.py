"""Where the numbers of a soft prompt start: functions that return functions, nestable.

An `Initial` makes a table `[length, width]` when a generator asks for one. Famous cases (Lester et al. 2021,
section 3.2): random uniform, sampled vocabulary, class labels. The paper's U(-0.5, 0.5) suits T5, whose embedding
table has a standard deviation near 1; on other models it is off by a factor of 10 to 50, so `matched` scales a
random start to the backbone's own table.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor

from promptuary.errors import SettingError

Initial = Callable[[int, int, torch.Generator], Float[Tensor, "length width"]]
Read = Callable[[Sequence[int]], Float[Tensor, "ids width"]]


def uniform(low: float = -0.5, high: float = 0.5) -> Initial:
    """U(low, high) in every number. The default is the paper's; its published code draws from U(0, 0.5) instead.

    Raises:
        SettingError: unless low < high.
    """
    if not low < high:
        raise SettingError(f"uniform({low}, {high}): expected low < high.")

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        return torch.rand(length, width, generator=seed) * (high - low) + low

    return make


def normal(deviation: float) -> Initial:
    """N(0, deviation^2) in every number."""

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        return torch.randn(length, width, generator=seed) * deviation

    return make


def matched(deviation: float) -> Initial:
    """Uniform with the given standard deviation: a random start on the scale of the embedding table."""
    bound = deviation * math.sqrt(3.0)
    return uniform(-bound, bound)


def from_vocabulary(read: Read, frequent: Int[Tensor, " ids"]) -> Initial:
    """Embeddings of sampled vocabulary items; without repetition as long as `frequent` has enough.

    Arguments:
        read: the embeddings of token ids, `backbone.embeddings`.
        frequent: the ids to sample from. The paper takes T5's first 5,000, which are ordered by frequency; other
            vocabularies are not, so pass the ids most frequent in the task's own text, without special ids.
    """

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        if len(frequent) == 0:
            raise SettingError("from_vocabulary: there are no ids to sample from; expected at least one.")
        if length <= len(frequent):
            chosen = torch.randperm(len(frequent), generator=seed)[:length]
        else:
            chosen = torch.randint(len(frequent), (length,), generator=seed)
        return _fitting(read(frequent[chosen].tolist()), width, "from_vocabulary")

    return make


def from_words(read: Read, ids: Sequence[int], rest: Initial) -> Initial:
    """One soft token per given token id, in order; what is left over starts as `rest`, surplus ids are dropped."""
    return from_labels(read, [[i] for i in ids], rest)


def from_labels(read: Read, labels: Sequence[Sequence[int]], rest: Initial) -> Initial:
    """Soft token i starts at the mean embedding of the sub-tokens of label i; the others start as `rest`.

    Arguments:
        read: the embeddings of token ids, `backbone.embeddings`.
        labels: the token ids of each class label, without special tokens.
    """

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        means = [_fitting(read(ids), width, "from_labels").mean(0) for ids in labels[:length] if ids]
        others = rest(length - len(means), width, seed)
        return torch.cat([torch.stack(means), others]) if means else others

    return make


def from_activations(read: Read, frequent: Int[Tensor, " ids"]) -> Initial:
    """What sampled tokens leave in the backbone's attention: a start for keys and values at each layer's own scale.

    Arguments:
        read: keys and values of token ids, `backbone.keys_values` with the prompt's parts.
        frequent: the ids to sample from, as for `from_vocabulary`.
    """

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        chosen = frequent[torch.randint(len(frequent), (length,), generator=seed)]
        values = read(chosen.tolist()).cpu()
        if values.shape[1] != width:
            raise SettingError(
                f"from_activations: keys and values of this backbone have {values.shape[1]} numbers, the prompt's soft "
                f"tokens {width}. Only prompts that enter as keys and values start so (p-tuning-v2)."
            )
        return from_prompt(values)(length, width, seed)

    return make


def from_file(path: Path | str) -> Initial:
    """The matrix of a safetensors file that holds one, or a prompt saved by this library (its matrix `prompt`).

    Raises:
        SettingError: when the file is missing, holds no or several matrices, or one of another width.
    """
    place = Path(path)
    if place.is_dir():
        place = place / "prompt.safetensors"
    if not place.is_file():
        raise SettingError(
            f"from_file({str(path)!r}): no such file. Name a .safetensors file or a saved prompt's folder."
        )
    found = {k: t for k, t in load_file(place).items() if t.dim() == 2 and t.is_floating_point()}
    matrices = [found["prompt"]] if "prompt" in found else list(found.values())
    if len(matrices) != 1:
        raise SettingError(
            f"from_file({str(path)!r}): the file holds {len(matrices)} matrices. Expected one [length, width], "
            "or one that is named 'prompt'."
        )

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        if matrices[0].shape[1] != width:
            raise SettingError(
                f"from_file({str(path)!r}): its matrix has width {matrices[0].shape[1]}, this prompt needs {width}."
            )
        return from_prompt(matrices[0])(length, width, seed)

    return make


def from_prompt(values: Float[Tensor, "rows width"]) -> Initial:
    """A copy of another prompt of the same length and width (SPoT, Vu et al. 2022: transfer from a source task).

    Raises:
        SettingError: when length or width differ.
    """

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        if tuple(values.shape) != (length, width):
            raise SettingError(
                f"from_prompt: the other prompt is {tuple(values.shape)}, this one {(length, width)} "
                f"(length, width). Set length={values.shape[0]}, or start from another prompt."
            )
        return values.detach().float().cpu().clone()

    return make


def _fitting(rows: Float[Tensor, "ids dim"], width: int, who: str) -> Float[Tensor, "ids {width}"]:
    if rows.shape[1] != width:
        raise SettingError(
            f"{who}: the embedding table has width {rows.shape[1]}, this prompt needs {width}. Word embeddings can "
            "start prompts at the input only; keys and values start by normal(...) or from_activations(...)."
        )
    return rows.float().cpu()
