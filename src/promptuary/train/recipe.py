"""How a prompt is trained, as one value: every number a paper's recipe states, with defaults that somebody measured."""

from dataclasses import dataclass, fields
from typing import Literal

from promptuary.errors import SettingError


@dataclass(frozen=True)
class Recipe:
    """The settings of one training run. A method carries its defaults; a user overrides single fields.

    Arguments:
        optimizer: `adamw`, or `adafactor` in exactly the form of Lester et al. (see `train/adafactor.py`).
        rate: learning rate of the prompt. With `scaled`, in units of the standard deviation of the backbone's
            embedding table (so that one number suits T5, whose table has deviation near 1, and BERT, near 0.05).
        scaled: see `rate`.
        head_rate: learning rate of a trained read-out (classifier head).
        decay: weight decay.
        schedule: what the rate does after warm-up: stay, fall in a line to 0, or fall along a cosine to 0.
        warmup: share of all steps during which the rate rises from 0.
        batch: rows per step. accumulation: batches per optimizer step.
        epochs: passes over the training rows. steps: optimizer steps instead of epochs, if positive.
        clip: largest norm of all gradients together; 0 is no clipping.
        dropout: share of the prompt's numbers dropped while training.
        patience: evaluations without a better score before training stops; 0 is never.
        evaluations: how often per epoch the validation rows are scored.
        precision: `fp32`, or `bf16` for the frozen model's arithmetic (prompts stay fp32).
        checkpointing: recompute activations instead of keeping them.
    """

    optimizer: Literal["adamw", "adafactor"] = "adamw"
    rate: float = 0.3
    scaled: bool = True
    head_rate: float = 1e-3
    decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = 0.06
    batch: int = 32
    accumulation: int = 1
    epochs: int = 10
    steps: int = 0
    clip: float = 1.0
    dropout: float = 0.0
    patience: int = 0
    evaluations: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False

    def __post_init__(self) -> None:
        positive = ("rate", "head_rate", "batch", "accumulation", "evaluations")
        for name in positive:
            if not getattr(self, name) > 0:
                raise SettingError(f"{name}={getattr(self, name)}: expected a number above 0.")
        for name in ("decay", "clip", "patience", "steps", "epochs"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name}={getattr(self, name)}: expected 0 or more.")
        for name in ("warmup", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)}: expected a share from 0 up to 1.")
        for name, choices in (
            ("optimizer", ("adamw", "adafactor")),
            ("schedule", ("constant", "linear", "cosine")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in choices:
                raise SettingError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(choices)}.")
        if self.epochs == 0 and self.steps == 0:
            raise SettingError("epochs=0 and steps=0: expected one of them above 0.")


FIELDS = tuple(f.name for f in fields(Recipe))
