"""Where the numbers of a soft prompt start: functions that return functions, nestable.

An `Initial` makes a table `[length, width]` when a generator asks for one. Famous cases (Lester et al. 2021,
section 3.2): random uniform, sampled vocabulary, class labels. The paper's U(-0.5, 0.5) suits T5, whose embedding
table has a standard deviation near 1; on other models it is off by a factor of 10 to 50, so `matched` scales a
random start to the backbone's own table.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


def zeros() -> Initial:
    """Zeros: what is added to something else is nothing at first (a network behind it still has its biases)."""
    return lambda length, width, seed: torch.zeros(length, width)


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
    return _from_means(read, [[i] for i in ids], rest, "from_words")


def from_labels(read: Read, labels: Sequence[Sequence[int]], rest: Initial) -> Initial:
    """Soft token i starts at the mean embedding of the sub-tokens of label i; the others start as `rest`.

    Where there are more labels than soft tokens, a warning says so.

    Arguments:
        read: the embeddings of token ids, `backbone.embeddings`.
        labels: the token ids of each class label, without special tokens; a label without any starts none.
    """
    known = [ids for ids in labels if ids]
    means = _from_means(read, known, rest, "from_labels")

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        if len(known) > length:
            warnings.warn(
                f"There are {len(known)} labels and {length} soft tokens: the last {len(known) - length} start none. "
                f"Set length={len(known)} or more, or init='vocabulary'.",
                stacklevel=2,
            )
        return means(length, width, seed)

    return make


def _from_means(read: Read, groups: Sequence[Sequence[int]], rest: Initial, who: str) -> Initial:
    """Soft token i starts at the mean embedding of group i of token ids; the others start as `rest`."""

    def make(length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        means = [_fitting(read(ids), width, who).mean(0) for ids in groups[:length]]
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

    def complaint(length: int, width: int) -> str:
        found = tuple(matrices[0].shape)
        if found[1] != width:
            return f"from_file({str(path)!r}): its matrix has width {found[1]}, this prompt needs {width}."
        return _other(found, length, width)

    return Copied(matrices[0], complaint)


def from_prompt(values: Float[Tensor, "rows width"]) -> Initial:
    """A copy of another prompt of the same length and width (SPoT, Vu et al. 2022: transfer from a source task).

    Raises:
        SettingError: when length or width differ.
    """
    return Copied(values, lambda length, width: _other(tuple(values.shape), length, width))


def from_embeddings(table: Float[Tensor, "vocabulary dim"]) -> Initial:
    """A copy of the backbone's whole embedding table: a start for look-up tables at the input (IPT).

    Arguments:
        table: `backbone.table`, as the layers see it.

    Raises:
        SettingError: for what has not a row of `dim` numbers for each token: a prompt, a hashed table, keys and values.
    """
    rows, dim = table.shape
    return Copied(
        table,
        lambda length, width: (
            f"from_embeddings: the embedding table has {rows} rows of {dim} numbers, what starts here {length} of "
            f"{width}. It starts look-up tables with a row for each token, at the input (ipt, with or without rank; "
            "not with buckets, not as a prefix); prompts start by 'vocabulary'."
        ),
    )


@dataclass(frozen=True, eq=False)
class Copied:
    """A start that is a given matrix: as it is, or, for a product of two, the nearest matrix of that rank.

    Arguments:
        values: the matrix.
        complaint: what to say where a matrix of another (length, width) is asked for.
    """

    values: Float[Tensor, "rows width"]
    complaint: Callable[[int, int], str]

    def __call__(self, length: int, width: int, seed: torch.Generator) -> Float[Tensor, "{length} {width}"]:
        values = self.values
        if tuple(values.shape) != (length, width):
            raise SettingError(self.complaint(length, width))
        return values.detach().float().cpu().clone()


Factors = tuple[Float[Tensor, "length rank"], Float[Tensor, "rank width"]]


def factors(init: Initial, length: int, width: int, rank: int, seed: torch.Generator) -> Factors:
    """Two matrices whose product starts as `init` says: at its deviation, or, where it is a copy, nearest to it.

    The nearest one of a rank is the truncated singular value decomposition: its squared error is the sum of the squares
    of the singular values that are left out (Eckart and Young 1936). The first factor has a size near 1 either way.

    Raises:
        SettingError: for a rank that the matrix to be copied cannot have.
    """
    if not isinstance(init, Copied):
        codes = torch.randn(length, rank, generator=seed)
        return codes, init(rank, width, seed).float() / rank**0.5
    if rank > min(length, width):
        raise SettingError(
            f"rank={rank}: a copy of {length} rows of {width} numbers has a rank of {min(length, width)}."
        )
    values = init(length, width, seed).double()
    # By the small side's products: a vocabulary has far more rows than columns.
    _, vectors = torch.linalg.eigh(values.T @ values)  # ascending
    basis = vectors[:, -rank:].T
    codes = values @ basis.T
    scale = codes.square().mean().sqrt().clamp(min=1e-12)
    return (codes / scale).float(), (basis * scale).float()


def _other(found: tuple[int, ...], length: int, width: int) -> str:
    return (
        f"from_prompt: the other prompt is {found}, this one {(length, width)} (length, width). Set length={found[0]}, "
        "or start from another prompt."
    )


def _fitting(rows: Float[Tensor, "ids dim"], width: int, who: str) -> Float[Tensor, "ids {width}"]:
    if rows.shape[1] != width:
        raise SettingError(
            f"{who}: the embedding table has width {rows.shape[1]}, this prompt needs {width}. Word embeddings can "
            "start prompts at the input only; keys and values start by normal(...) or from_activations(...)."
        )
    return rows.float().cpu()
