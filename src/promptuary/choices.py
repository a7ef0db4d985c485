"""The one differentiable decision: which of several options, for a task or for an input.

A `Choice` decides where a prompt is split (`placements.Adaptive`), how long it is (`generators.Shortened`) and which
prompts of a pool make it up (`generators.Pool`): dynamic prompting (Yang et al. 2023). It has logits of its own, logits
for each task, or makes them from a *query* of the input; it answers with one option (Gumbel-Softmax, straight through:
Jang et al. 2017) or with weights. At evaluation nothing is drawn: the most likely option, or the weights as they are.

Differences from the code published with dynamic prompting: no noise at evaluation; the query leaves padding out and
flows no gradient; logits are not cut at zero (`activation=torch.relu` does that) and start alike (`spread`); a query is
normalised, so that its scale does not depend on the backbone. Logits are made in float32 under any precision.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from promptuary.errors import SettingError
from promptuary.values import Instance

Query = Callable[[Instance], Float[Tensor, "batch dim"]]
Schedule = Callable[[int], float]
Activation = Callable[[Tensor], Tensor]


# --- what an input is asked for ---------------------------------------------------------------------------------------


def embedding_mean(x: Instance) -> Float[Tensor, "batch dim"]:
    """The mean of the embeddings of a row's real tokens: nearly free. A row without tokens gives zeros."""
    return _mean(x.embeds, x)


def embedding_max(x: Instance) -> Float[Tensor, "batch dim"]:
    """The largest of the embeddings of a row's real tokens in each dimension. A row without tokens gives zeros."""
    states = x.embeds.detach().float()
    largest = states.masked_fill(~rearrange(x.mask, "b t -> b t 1"), -torch.inf).amax(1)
    return largest.where(rearrange(x.mask.any(1), "b -> b 1"), 0.0)


class Read(nn.Module):
    """A query that a trained network reads further (ATTEMPT, Asai et al. 2022)."""

    def __init__(self, query: Query, network: nn.Module) -> None:
        super().__init__()
        self.query, self.network = query, network

    def forward(self, x: Instance) -> Float[Tensor, "batch out"]:
        query = x.once(self.query)
        with torch.autocast(query.device.type, enabled=False):
            read: Float[Tensor, "batch out"] = self.network(query.float())
        return read


def encoding_mean(x: Instance, until: int | None = None) -> Float[Tensor, "batch hidden"]:
    """The mean of the frozen backbone's states of a row's real tokens: one more pass, without gradient.

    They are the last ones, or those before the layer `until`: then the layers above are not run.

    The states are those of the input alone, without any prompt, and without dropout. Of an encoder-decoder the encoder
    is asked, so no label can be seen.
    """
    return _mean(x.once(encoding, until), x)


def encoding(x: Instance, until: int | None = None) -> Float[Tensor, "batch tokens hidden"]:
    """The frozen backbone's states of the bare input, the last ones or those before a layer, made once a pass."""
    return x.encode(x, until, None)


def _mean(states: Float[Tensor, "batch tokens dim"], x: Instance) -> Float[Tensor, "batch dim"]:
    weights = rearrange(x.mask, "b t -> b t 1").to(torch.float32)
    return (states.detach().float() * weights).sum(1) / weights.sum(1).clamp(min=1)


# --- temperatures -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """The same temperature at every step."""

    value: float = 1.0

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """From `first` to `last` over `steps` steps, then `last`."""

    first: float = 1.0
    last: float = 0.5
    steps: int = 1000

    def __call__(self, step: int) -> float:
        return self.first + (self.last - self.first) * min(1.0, step / self.steps)


@dataclass(frozen=True)
class Exponential:
    """`max(exp(-rate * step), last)`."""

    rate: float = 3e-5
    last: float = 0.5

    def __call__(self, step: int) -> float:
        return max(math.exp(-self.rate * step), self.last)


@dataclass(frozen=True)
class OfficialCompounding:
    """What the code published with dynamic prompting does: the factor of each step is multiplied onto the last one.

    `exp(-rate / anneal * n (n + 1) / 2)`, which reaches 0.5 at step 680 (a plain exponential would at step 231,049).
    """

    rate: float = 3e-5
    anneal: float = 10.0
    last: float = 0.5

    def __call__(self, step: int) -> float:
        return max(math.exp(-self.rate / self.anneal * step * (step + 1) / 2), self.last)


SCHEDULES: dict[str, Schedule] = {
    "constant": Constant(),
    "linear": Linear(),
    "exponential": Exponential(),
    "official_compounding": OfficialCompounding(),
}


def schedule(name: str) -> Schedule:
    """A temperature by its name, with other numbers than its own behind a colon: `linear:steps=200,last=0.1`.

    Raises:
        SettingError: for another name, field or value.
    """
    kind, _, given = name.partition(":")
    if kind not in SCHEDULES:
        raise SettingError(f"temperature={name!r}: expected one of {', '.join(SCHEDULES)}.")
    own: Any = SCHEDULES[kind]
    known = {field.name: getattr(own, field.name) for field in fields(own)}
    changed = {}
    for part in filter(None, given.split(",")):
        field, _, value = part.partition("=")
        try:
            changed[field] = type(known[field])(value)
        except (KeyError, ValueError) as error:
            said = ",".join(f"{k}={v}" for k, v in known.items())
            raise SettingError(f"temperature={name!r}: {part!r} is not understood. Write {kind}:{said}.") from error
        if not changed[field] > 0:
            raise SettingError(f"temperature={name!r}: {field} must be above 0.")
    made: Schedule = replace(own, **changed)
    return made


# --- the decision -----------------------------------------------------------------------------------------------------


class PerTask(ABC):
    """A part that holds something of its own for each of several tasks (`Instance.task`)."""

    @abstractmethod
    def settle(self, task: int) -> None:
        """Forget what was learnt for the other tasks: from now on it is this one's."""

    @abstractmethod
    def idle(self) -> int:
        """How many of its trained numbers are of other tasks than a row's."""


class Choice(PerTask, nn.Module):
    """Weights over `options` for each row.

    Arguments:
        options: how many there are.
        dim: the width of `query`; with it the choice is made for each input by one linear layer, without it the
            logits are free parameters of the task.
        tasks: logits of their own for each of so many tasks (`Instance.task`); not together with `dim`.
        query: what of the input the layer sees.
        mode: `hard` takes one option (drawn while training), `soft` weighs all by softmax, `top` weighs the `top` most
            likely ones, of which a gradient reaches all (straight through).
        temperature: a function of the optimizer step, of `hard` and `top`. A hard choice is distributed as the softmax
            of the logits at any temperature: it changes the gradient alone.
        activation: applied to the logits.
        prefer: the option that is the most likely one at the start; `None` starts all alike.
        spread: bias and weight start within so much of that, drawn uniformly. seed: of that draw.
        entropy: weight of the mean entropy of a row's choice, added to what is earned: keeps a choice from collapsing.
        rows: whether a choice without a query is drawn for each row (with `False` once for a batch, as published).
        trained: whether it learns. A hard choice that does not is a control: drawn uniformly while training; at
            evaluation each text has an option of its own, spread evenly over texts.

    Raises:
        SettingError: for fewer than one option, an unknown mode or preference, or more than one condition.
    """

    def __init__(
        self,
        options: int,
        *,
        dim: int | None = None,
        tasks: int | None = None,
        query: Query = embedding_mean,
        mode: Literal["hard", "soft", "top"] = "hard",
        top: int = 1,
        temperature: Schedule = SCHEDULES["constant"],
        activation: Activation | None = None,
        prefer: int | None = None,
        spread: float = 0.0,
        seed: int = 0,
        entropy: float = 0.0,
        rows: bool = False,
        trained: bool = True,
    ) -> None:
        super().__init__()
        if options < 1:
            raise SettingError(f"Choice(options={options}): expected 1 or more.")
        if mode not in ("hard", "soft", "top"):
            raise SettingError(f"Choice(mode={mode!r}): expected 'hard', 'soft' or 'top'.")
        if not 1 <= top <= options:
            raise SettingError(f"Choice(top={top}) of {options} options: expected 1 to {options}.")
        if prefer is not None and not 0 <= prefer < options:
            raise SettingError(f"Choice(prefer={prefer}): expected an option from 0 to {options - 1}.")
        if dim is not None and tasks is not None:
            raise SettingError("Choice: expected dim (a choice for each input) or tasks (one for each task), not both.")
        self.options, self.mode, self.top, self.entropy, self.rows = options, mode, top, entropy, rows
        self.query, self.temperature, self.activation = query, temperature, activation
        self.control, source = not trained, torch.Generator().manual_seed(seed)

        def start(*shape: int) -> Tensor:
            return spread * (2 * torch.rand(shape, generator=source) - 1)

        bias = start(tasks or 1, options)
        if prefer is not None:
            bias[:, prefer] += 1.0
        self.bias = nn.Parameter(bias, requires_grad=trained)
        self.weight = None if dim is None else nn.Parameter(start(options, dim), requires_grad=trained)

    def forward(self, x: Instance) -> Float[Tensor, "batch options"]:
        """The weights of the options, made once a pass whoever asks: parts that share a choice agree."""
        decided: Float[Tensor, "batch options"] = x.once(self._decide)
        return decided

    def probabilities(self, x: Instance) -> Float[Tensor, "batch options"]:
        """How likely each option is; no gradient, nothing drawn."""
        with torch.no_grad():
            return self._logits(x).softmax(-1)

    def uncertainty(self, x: Instance) -> Float[Tensor, " batch"]:
        """The entropy in nats of each row's distribution over the options: 0 is decided, log(options) all alike.

        It is that of the softmax of the logits, whatever the mode and the temperature. No gradient, nothing drawn; in
        a pass that decided already, it costs nothing to speak of.
        """
        return _entropies(x.once(self._logits).detach().float())

    @property
    def trained(self) -> bool:
        """Whether it learns; one that does not is drawn uniformly while training."""
        return self.bias.requires_grad

    def settle(self, task: int) -> None:
        if len(self.bias) > 1:
            self.bias = nn.Parameter(self.bias[task : task + 1].detach().clone(), requires_grad=self.trained)

    def idle(self) -> int:
        return (len(self.bias) - 1) * self.options if self.trained else 0

    def _logits(self, x: Instance) -> Float[Tensor, "batch options"]:
        batch = len(x.ids)
        logits = self.bias[x.task] if len(self.bias) > 1 else self.bias.expand(batch, -1)
        if self.weight is not None:
            query = x.once(self.query).float()
            with torch.autocast(query.device.type, enabled=False):
                logits = logits + F.linear(F.layer_norm(query, query.shape[-1:]), self.weight)
        return logits if self.activation is None else self.activation(logits)

    def _decide(self, x: Instance) -> Float[Tensor, "batch options"]:
        logits = x.once(self._logits)
        if self.training and self.entropy:
            x.losses.append(-self.entropy * _entropies(logits).mean())
        if self.mode == "soft":
            return logits.softmax(-1)
        if not self.training:
            return self._settled(logits if self.mode == "top" or not self.control else self._of_text(x))
        temperature = self.temperature(x.step)
        if self.mode == "hard":
            logits = logits + self._noise(logits)
        weights = (logits / temperature).softmax(-1)
        return _straight_through(self._settled(logits), weights)

    def _settled(self, logits: Float[Tensor, "batch options"]) -> Float[Tensor, "batch options"]:
        """What these logits decide where nothing is drawn; of equal ones the first."""
        kept = logits.detach().argsort(dim=-1, descending=True, stable=True)
        kept = kept[:, : self.top if self.mode == "top" else 1]
        chosen = torch.full_like(logits, -torch.inf).scatter(1, kept, logits.detach().gather(1, kept))
        return chosen.softmax(-1)

    def _of_text(self, x: Instance) -> Float[Tensor, "batch options"]:
        """Logits that take an option by a hash of a row's tokens, whatever stands beside it."""
        mixed = x.ids.long() * 2654435761 % 2**31
        hashed = (mixed ^ (mixed >> 15)).masked_fill(~x.mask, 0).sum(1) * 1274126177 % 2**31
        return F.one_hot((hashed >> 8) % self.options, self.options).to(self.bias.dtype)

    def _noise(self, logits: Float[Tensor, "batch options"]) -> Float[Tensor, "rows options"]:
        shared = self.weight is None and not self.rows
        drawn = torch.rand_like(logits[:1] if shared else logits)
        return -(-drawn.clamp(min=1e-20).log()).clamp(min=1e-20).log()


class Chooses(ABC):
    """A part that acts on a choice, and says what an option means to it.

    Arguments:
        decides: what is chosen, in words, followed by what an option's number counts.
        first: the number of the first option.
    """

    choice: Choice
    decides: ClassVar[str]
    first: int = 0


def _straight_through(
    value: Float[Tensor, "batch options"], weights: Float[Tensor, "batch options"]
) -> Float[Tensor, "batch options"]:
    """Exactly `value` forward (0 and 1 stay 0 and 1), the gradient of `weights` backward."""
    return value + (weights - weights.detach())


def _entropies(logits: Float[Tensor, "batch options"]) -> Float[Tensor, " batch"]:
    logs = logits.log_softmax(-1)
    return -(logs.exp() * logs).sum(-1)
