"""What a trained prompt may silently suffer from, in words: each check gives an `Alarm` with its remedy, or nothing.

A run that ends without an error may still have learnt nothing. The commonest ways (specs of the papers, issue
threads of other libraries): the majority class, a loss that stands still, a prompt the model does not hear, a rate
that does not fit the scale of the embeddings.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from promptuary.data.batch import Batch
from promptuary.model import SoftPrompted
from promptuary.placements import bare
from promptuary.readouts import Readout
from promptuary.train.evaluation import Pairs, answers, by_task
from promptuary.values import Call, Prompt

# A loss below this (in nats) has little left to lose: standing still there is no fault.
LEARNT = 0.05
# Fewer steps than this say nothing about a trend.
FEWEST = 20
# By what share of the lowest fifth's loss the last fifth's is larger where a run went back. A published run of IPT does
# so: at its best at epoch 35 of 100, and at a loss of ln 2 from epoch 41 to the end.
RISE = 0.25
# A choice with less than this share of the largest entropy is decided. Random models that choose by the input (DP,
# eight epochs of a toy task) have 0.81 to 0.96 of it at a quarter of the run at the default rate of 0.01, and 0.004 to
# 0.015 at the 0.3 of the published code.
SETTLED = 0.05


@dataclass(frozen=True)
class Alarm:
    """Something that looks wrong: a short name, and a sentence that says what, and what to try."""

    name: str
    sentence: str


def majority(pairs: Pairs, names: Mapping[str, Sequence[str]] = MappingProxyType({})) -> Alarm | None:
    """Whether the score is what always answering the commonest class would reach; of several tasks, whose is.

    Arguments:
        names: the classes of each task by its name, in the order of the tasks' numbers.
    """
    known, found = [*names.items()], []
    for number, own in by_task(pairs).items():
        name, classes = known[number] if known else ("", ())
        at = _at_majority(own, classes)
        found += [f"Task {name!r}: {at}" if len(known) > 1 else at] if at else []
    if not found:
        return None
    return Alarm(
        "majority",
        f"{' '.join(found)} Try a rate three times larger or smaller, more epochs, or a method with soft keys and "
        "values.",
    )


def _at_majority(pairs: Pairs, names: Sequence[str]) -> str:
    """What is to be said of one task, if anything."""
    true, said = answers(pairs)
    if not true:
        return ""
    label, count = Counter(true).most_common(1)[0]
    share = count / len(true)
    accuracy = sum(t == s for t, s in zip(true, said, strict=True)) / len(true)
    if accuracy > share or share == 1.0:
        return ""
    said_always = repr(names[label]) if names else f"class {label}"
    return (
        f"Accuracy {accuracy:.1%} is not above the {share:.1%} of always answering {said_always}: nothing was learnt "
        "that scores."
    )


def still(losses: Sequence[float]) -> Alarm | None:
    """Whether the loss of the last fifth of the steps is that of the first fifth, up to its noise."""
    fifth = len(losses) // 5
    if len(losses) < FEWEST:
        return None
    first, last = losses[:fifth], losses[-fifth:]
    noise = ((stdev(first) ** 2 + stdev(last) ** 2) / fifth) ** 0.5
    fall = mean(first) - mean(last)
    if fall > max(0.01 * abs(mean(first)), noise) or mean(last) < LEARNT:
        return None
    return Alarm(
        "still",
        f"The loss does not fall: {mean(first):.4g} at the start, {mean(last):.4g} at the end. Try a larger rate (a "
        "smaller one if it swings), more steps, or another start of the prompt.",
    )


def risen(losses: Sequence[float]) -> Alarm | None:
    """Whether the loss of the last fifth of the steps is clearly larger than that of an earlier fifth."""
    fifth = len(losses) // 5
    if len(losses) < FEWEST:
        return None
    parts = [losses[k * fifth : (k + 1) * fifth] for k in range(4)]
    at = min(range(4), key=lambda k: mean(parts[k]))
    low, last = parts[at], losses[-fifth:]
    noise = ((stdev(low) ** 2 + stdev(last) ** 2) / fifth) ** 0.5
    if mean(last) - mean(low) <= max(RISE * abs(mean(low)), 3 * noise) or mean(last) < LEARNT:
        return None
    return Alarm(
        "risen",
        f"The loss was {mean(low):.4g} in steps {at * fifth + 1} to {(at + 1) * fifth} and is {mean(last):.4g} in the "
        f"last {fifth}: it rose again. Divide the rate by three, or clip gradients (clip=1.0); what was learnt before "
        "is kept where validation rows choose the step.",
    )


def ineffective(model: SoftPrompted, readout: Readout, batch: Batch, tolerance: float = 1e-5) -> Alarm | None:
    """Whether the backbone says the same with and without the prompt (up to `tolerance` of the largest number).

    The default is float32's rounding over a few layers: a masked prompt moves a random T5's states by 2.5e-6.
    """
    if model.generator.length == 0:
        return None
    x = model.instance_of(batch)
    targets = readout.targets(batch)
    with torch.no_grad():
        alone, prompted = model.backbone.run(Call(bare(x)), targets), model(x, targets)
    gap = _gap(alone.hidden[batch.mask], prompted.hidden[batch.mask])
    if prompted.targets is not None and alone.targets is not None and targets is not None:
        gap = max(gap, _gap(alone.targets[targets.mask], prompted.targets[targets.mask]))
    if gap > tolerance:
        return None
    return Alarm(
        "ineffective",
        f"The model's output is the same with and without the prompt (gap {gap:.1g}). Check that the "
        "prompt is not zero and enters the model: another injection, or another start.",
    )


def unread(model: SoftPrompted, readout: Readout, batch: Batch) -> Alarm | None:
    """Whether a part of each soft token gets no gradient while the rest does: it enters where nothing is read.

    Where no part gets any, the loss may be learnt to the last bit; tensors that never got one are `Watch`'s.
    """
    if model.generator.length == 0:
        return None
    x = model.instance_of(batch)
    p = model.generator.fixed() or model.generator(x)
    values, rows = p.values.detach().requires_grad_(), len(batch.ids)
    spread = Prompt(values.expand(rows, -1, -1), p.keep.expand(rows, -1))
    out = model.backbone.run(model.injection(spread, x), readout.targets(batch))
    (gradient,) = torch.autograd.grad(readout.loss(out, batch), values, allow_unused=True)
    heard = torch.zeros(1) if gradient is None else gradient.flatten(0, 1).any(0)
    if heard.all() or not heard.any():
        return None
    return Alarm(
        "dead",
        f"{int((~heard).sum()):,} of the {len(heard):,} numbers of each soft token have no influence on the loss: they "
        "enter a part of the model that the read-out never reads (a classifier reads the encoder). Leave that part "
        "out (parts=['encoder']), or read the task off it (readout='text').",
    )


def saturated(model: SoftPrompted, batch: Batch, bound: float = 0.99, most: float = 0.5) -> Alarm | None:
    """Whether most units of the network behind a prompt sit at the bounds of their tanh, where no gradient passes.

    Arguments:
        bound: from where a unit counts, of its largest value 1; its gradient is down to a fiftieth there.
        most: the share of units that is alarmed. Prefix tuning on the embedded messages (`minilm`, 8 epochs) ends with
            0.2 % of them at its default rate, and with 79 % and the majority class at thirty times that rate.
    """
    seen: list[Tensor] = []
    bounded = [module for module in model.generator.modules() if isinstance(module, nn.Tanh)]
    hooks = [m.register_forward_hook(lambda _, given, made: seen.append(made.detach())) for m in bounded]
    with torch.no_grad():
        model.generator(model.instance_of(batch))
    for hook in hooks:
        hook.remove()
    share = float((torch.cat([made.flatten() for made in seen]).abs() > bound).float().mean()) if seen else 0.0
    if share <= most:
        return None
    return Alarm(
        "saturated",
        f"{share:.0%} of the units of the network that makes the prompt sit at the bounds of their tanh: they hardly "
        "learn any more. Divide the rate by ten.",
    )


def settled(noted: Sequence[Mapping[str, Any]], trained: Collection[str]) -> list[Alarm]:
    """Which trained choices were decided before they could learn: hardly any entropy left at a quarter of the run.

    A choice that learns starts near log(options) and may well end near 0. One that is there after a quarter of the
    steps fell within the first of them: the options it left get no gradient to speak of any more.

    Arguments:
        noted: the record's `choices` events, in order. The first that reaches a quarter of the run is looked at.
        trained: the names of the choices that learn; one that does not has no entropy to lose.
    """
    if not noted:
        return []
    last = noted[-1]["step"]
    early = next(event for event in noted if 4 * event["step"] >= last)
    return [
        Alarm(
            "settled",
            f"{name} was decided too early: up to step {early['step']} of {last} it had {share:.1%} of the largest "
            "entropy, and what it left out hardly learns any more. Divide its rate by ten (rates.choice), or set "
            "entropy=0.01.",
        )
        for name, share in early["share"].items()
        if name in trained and share < SETTLED
    ]


@dataclass
class Watch:
    """Follows every trained tensor through a run: whether it gets gradient, whether it moves, how far in one step.

    Arguments:
        scale: what a step is measured against: the RMS a tensor started with, or the deviation of the backbone's
            embedding table if that is larger (tensors may start at 0).
        silent: tensors without any gradient so far. unmoved: those that never changed. furthest: the largest RMS of
            a watched step, in units of `scale`.
    """

    scale: dict[str, float]
    silent: set[str]
    unmoved: set[str]
    furthest: dict[str, float] = field(default_factory=dict)
    _before: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Mapping[str, nn.Parameter], deviation: float) -> "Watch":
        """A watch over these tensors as they start."""
        scale = {name: max(_rms(p), deviation) for name, p in named.items()}
        return cls(scale, set(named), set(named))

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> "Watch":
        """The watch that `notes` was called on."""
        return cls(dict(notes["scale"]), set(notes["silent"]), set(notes["unmoved"]), dict(notes["furthest"]))

    def notes(self) -> dict[str, Any]:
        """What `from_notes` needs, as JSON values."""
        quiet = {"silent": sorted(self.silent), "unmoved": sorted(self.unmoved)}
        return {"scale": self.scale, **quiet, "furthest": self.furthest}

    def before(self, named: Mapping[str, nn.Parameter], step: int) -> None:
        """Look at gradients and values before an optimizer step; all tensors now and then, quiet ones always."""
        self.silent -= {n for n in self.silent if (g := named[n].grad) is not None and bool(g.any())}
        looked = set(named) if step <= 10 or step % 50 == 0 else self.unmoved
        self._before = {n: named[n].detach().clone() for n in looked}

    def after(self, named: Mapping[str, nn.Parameter]) -> None:
        """Look again after the step."""
        for name, old in self._before.items():
            distance = _rms(named[name].detach() - old)
            if distance:
                self.unmoved.discard(name)
            self.furthest[name] = max(self.furthest.get(name, 0.0), distance / self.scale[name])
        self._before = {}

    def alarms(self) -> list[Alarm]:
        """What the run's tensors suffered from."""
        dead = [*_dead("got no gradient", self.silent), *_dead("never changed", self.unmoved - self.silent)]
        return dead + [_leap(name, ratio) for name, ratio in sorted(self.furthest.items()) if ratio > 1.0]


def _dead(what: str, names: set[str]) -> list[Alarm]:
    if not names:
        return []
    return [
        Alarm(
            "dead",
            f"{', '.join(sorted(names))} {what} in the whole run. The part has no influence on the loss (or its "
            "rate is 0): leave it out, or check how it enters the model.",
        )
    ]


def _leap(name: str, ratio: float) -> Alarm:
    return Alarm(
        "leap",
        f"One step moved {name} by {ratio:.1f} times its own scale: the rate does not fit. Divide it by "
        f"{math.ceil(ratio)} or more. At the input, scaled=True states it in units of the model's embeddings.",
    )


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().square().mean().sqrt())
