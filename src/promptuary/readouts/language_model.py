"""The read-out that learns text: token cross-entropy, as Lester et al. 2021 train every task (sections 2 and 3)."""

from collections.abc import Sequence
from dataclasses import dataclass

from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from promptuary.data.batch import Batch
from promptuary.errors import DataError, SettingError
from promptuary.readouts.readout import Prediction, Readout, labels_of
from promptuary.readouts.verbalizers import WordsAsContinuation
from promptuary.readouts.words import Combination, target_log_probabilities, target_logits
from promptuary.values import PARTS, Output, Part, Shape, Targets


@dataclass(frozen=True, eq=False)
class Likelihood:
    """The log-probability of each row's target texts, in nats, and how many tokens they have."""

    log_probability: Float[Tensor, " batch"]
    tokens: Int[Tensor, " batch"]


class LanguageModel(Readout):
    """Learns the batch's target texts; in evaluation ranks the texts of the classes, where it knows them.

    The loss is the mean over all target tokens of the batch (not of row means: a long text weighs more), which is
    how T5's code counts. Texts are better predicted by generating them: see `promptuary.decoding`.

    Arguments:
        labels: the text of each class as token ids, for `predict`; empty where the task has no classes. In
            evaluation mode the backbone then scores these instead of the batch's own targets.
        per_token: whether ranking divides a text's log-probability by its length.
        z_loss: weight of the squared log of the normaliser, which keeps scores from drifting; Lester et al. use
            1e-4. It changes the loss and not what is predicted.
        smoothing: share of each token's target spread over the whole vocabulary.

    Raises:
        SettingError: for a single class, an empty text, a negative `z_loss`, or a smoothing outside [0, 1).
    """

    def __init__(
        self,
        labels: Sequence[Sequence[int]] = (),
        *,
        per_token: bool = False,
        z_loss: float = 0.0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        if z_loss < 0:
            raise SettingError(f"LanguageModel(z_loss={z_loss}): expected 0 or more (Lester et al. use 1e-4).")
        if not 0.0 <= smoothing < 1.0:
            raise SettingError(f"LanguageModel(smoothing={smoothing}): expected a share from 0 up to 1.")
        self.z_loss, self.smoothing = z_loss, smoothing
        tokens: Combination = "mean" if per_token else "sum"
        self.ranking = WordsAsContinuation([[text] for text in labels], tokens=tokens) if labels else None

    def targets(self, batch: Batch) -> Targets | None:
        return batch.targets if self._ranks is None else self._ranks.targets(batch)

    def columns(self, batch: Batch) -> Int[Tensor, "batch read"]:
        return batch.ids[:, :0]

    def reads(self, shape: Shape) -> frozenset[Part]:
        return PARTS

    def loss(self, out: Output, batch: Batch) -> Float[Tensor, ""]:
        logits, ids = self._own(out, batch)
        entropy = F.cross_entropy(logits, ids, reduction="sum", label_smoothing=self.smoothing)
        if self.z_loss:  # a pass over the vocabulary, forward and back, as long as the entropy's
            entropy = entropy + self.z_loss * logits.logsumexp(1).square().sum()
        return entropy / max(len(ids), 1)

    def count(self, batch: Batch) -> int:
        if self._ranks is None:
            return int(_texts(batch).mask.sum())
        labels = labels_of(batch)
        return int(self._ranks.words.mask[labels[labels != -1]].sum())

    def predict(self, out: Output, batch: Batch) -> Prediction | Likelihood:
        """In evaluation mode, where the classes' texts are known, the most probable class; else `Likelihood`.

        Raises:
            DataError: where there are neither classes nor target texts.
        """
        if self._ranks is not None:
            return self._ranks.predict(out, batch)
        targets = _given(out, batch)
        each = target_log_probabilities(out, targets)
        return Likelihood(reduce(each, "b c s -> b", "sum"), reduce(targets.mask.int(), "b c s -> b", "sum"))

    def _own(self, out: Output, batch: Batch) -> tuple[Float[Tensor, "tokens vocabulary"], Int[Tensor, " tokens"]]:
        """Scores at the tokens of each row's own text, and these tokens; of rows of unknown class there are none."""
        if self._ranks is None:
            targets = _given(out, batch)
            return out.once(target_logits, targets), targets.ids[targets.mask]
        labels = labels_of(batch)
        rows = (labels != -1).nonzero()  # [known, 1]
        words, beginnings, text = self._ranks.words, self._ranks.beginnings, labels[rows[:, 0]]
        real = words.mask[text]  # [known, steps]
        return out.once(beginnings.logits)[rows, beginnings.of[text]][real], words.ids[text][real]

    @property
    def _ranks(self) -> WordsAsContinuation | None:
        return None if self.training else self.ranking


def _texts(batch: Batch) -> Targets:
    if batch.targets is None:
        raise DataError("This batch has no target texts. Expected Batch.targets, and a model run with them.")
    return batch.targets


def _given(out: Output, batch: Batch) -> Targets:
    if out.targets is None:
        raise DataError("The model was run without target texts. Expected model(x, readout.targets(batch)).")
    return _texts(batch)
