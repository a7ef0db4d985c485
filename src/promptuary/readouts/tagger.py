"""One class a word: sequence tagging (entities, parts of speech), read at the first token of each word."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError
from promptuary.readouts.readout import Readout, head, in_float32, known, known_entropy
from promptuary.values import Output


@dataclass(frozen=True, eq=False)
class Tagging:
    """The class of each token that begins a word, -1 elsewhere, and the probability of every class (0 elsewhere)."""

    label: Int[Tensor, "batch tokens"]
    probability: Float[Tensor, "batch tokens classes"]

    def sequences(self) -> list[list[int]]:
        """The classes of each row's words, in order."""
        return [[tag for tag in row if tag != -1] for row in self.label.tolist()]


class Tagger(Readout):
    """A linear layer from every token's state to class scores, in float32; the loss is the mean over all words.

    Arguments:
        classes: how many.
        dim: width of the backbone's last states (`backbone.shape.output`).
        dropout: share of the states dropped while training.
        seed: of the initial weights.

    Raises:
        SettingError: for fewer than two classes, or a dropout outside [0, 1).
    """

    def __init__(self, classes: int, dim: int, *, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        if classes < 2:
            raise SettingError(f"Tagger(classes={classes}): expected 2 or more.")
        if not 0.0 <= dropout < 1.0:
            raise SettingError(f"Tagger(dropout={dropout}): expected a share from 0 up to 1.")
        self.head, self.dropout = head(classes, dim, seed=seed), dropout

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        tags = _tags(batch)
        return known_entropy(self._scores(out, tags != -1), tags[tags != -1])

    def count(self, batch: Batch) -> int:
        return known(_tags(batch))

    def predict(self, out: Output, batch: Batch) -> Tagging:
        if batch.words is None:
            raise DataError("This batch does not say where words begin. Expected Batch.words, -1 at all other tokens.")
        begins = batch.words >= 0
        scores = self._scores(out, begins)
        label = batch.words.new_full(begins.shape, -1).masked_scatter(begins, scores.argmax(1))
        empty = scores.new_zeros(*begins.shape, scores.shape[1])
        return Tagging(label, empty.masked_scatter(rearrange(begins, "b t -> b t 1"), scores.softmax(1)))

    def _scores(self, out: Output, where: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "places classes"]:
        # Other states may be undefined (padding): they are left out, not weighted by 0.
        return in_float32(self.head, F.dropout(out.hidden[where], self.dropout, self.training))


def _tags(batch: Batch) -> Int[Tensor, "batch tokens"]:
    if batch.tags is None:
        raise DataError("This batch has no tags to compare with. Expected Batch.tags, a class for each word.")
    return batch.tags
