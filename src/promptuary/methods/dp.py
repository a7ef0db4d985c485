"""Dynamic prompting (DP, Yang et al. 2023): where the prompt is split, how long it is and which vectors it has are
chosen, for the task or for each input.

Everything is plain prompt tuning with one to three `Choice`s in it; a decision that is not made dynamic is made by
hand, so that every baseline runs through the same parts. Differences from the published code are those of `Choice`,
`Adaptive` and `Shortened`; besides, the selectors learn at a rate of their own (the published one shares the prompt's
0.3 and saturates), start alike with a lean to a prefix of full length, and logits are not cut at zero
(`compat="official"` starts, cuts and orders as published; the rate is `rates.choice=0.3`).
"""

from typing import TYPE_CHECKING, Any, Literal

from promptuary.errors import SettingError
from promptuary.methods.method import Control, Method, check_control, embedded, some
from promptuary.train.recipe import Recipe

if TYPE_CHECKING:
    from promptuary.parts import Built, Choice, Generator, Initial, Injection, Placement, Shape

PAPER = "Yang, Cheng, Zhao, Yu, Petzold, Chen 2023: Dynamic Prompting (arXiv 2303.02909; Findings of NAACL 2025)"

Level = Literal["task", "instance", "random"]


def dynamic(
    shape: "Shape",
    *,
    length: int = 20,
    position: Level | int | None = None,
    lengths: Level | None = None,
    pool: int = 1,
    pooled: Level = "instance",
    bank: bool = False,
    deep: bool = False,
    query: Literal["embeddings", "encoder"] = "embeddings",
    tasks: int | None = None,
    order: Literal["split", "rotate"] = "split",
    head: int = 0,
    tail: int | None = None,
    sees_input: bool = True,
    least: int = 1,
    mode: Literal["soft", "hard", "top"] = "soft",
    top: int = 1,
    temperature: str = "constant",
    entropy: float = 0.0,
    compat: Literal["ours", "official"] = "ours",
    control: Control = "none",
    init: "Initial | None" = None,
    seed: int = 0,
) -> "Built":
    """A prompt of at most `length` soft tokens.

    Arguments:
        position: how many of them stand before the input: chosen for the task, for each input, drawn anew at every
            step (a control), or a number; `None` is all.
        lengths: how many there are, `least` or more: chosen likewise; `None` is all.
        pool: of how many prompts the vectors are mixed; pooled: for the task or for each input; mode, top: how
            (the paper: `soft`).
        bank: one choice takes both the position and that position's own prompt of a bank of `length + 1`.
        deep: the prompt's hidden states are overwritten before every layer, at the same places.
        query: what an input's choices see: the mean of its embeddings, or of the frozen model's states (one more pass).
        tasks: choices of a task are made for each of so many tasks.
        order: which soft tokens stand before the input: the first ones (`split`, the paper), or the last ones
            (`rotate`, its code).
        head, tail: how many tokens stay outside the prompt at either end; by default none, and the last one of a
            causal model (with `compat="official"` of any).
        sees_input: as in prompt tuning, for soft tokens that are not deep.
        temperature: a schedule by name, with its numbers where they are others (`choices.schedule`): of choices of one
            option. entropy: weight of the choices' entropy.
        compat: `official` chooses as the published code does: from logits that are drawn (of a task within 0.5), for
            an input through a ReLU, of a pool alone through a tanh; in its order, the last token (`</s>`) behind all.
        control: of what is chosen for each input (`promptuary.controls`): by another row's text, or by weights that
            stay as they are drawn.
    """
    import itertools

    import torch

    from promptuary import parts

    some(length)
    check_control(control, reads="instance" in (position, lengths, pooled if pool > 1 else None))
    cooling = parts.schedule(temperature)
    if pool > 1 and pooled == "random" and mode != "hard":
        raise SettingError(f"pooled='random' with mode={mode!r}: every text gets the same mixture. Write mode='hard'.")
    if bank and (position not in ("task", "instance") or pool > 1):
        raise SettingError("bank=True: expected position='task' or 'instance' (it chooses the prompt too) and pool=1.")
    official, drawn = compat == "official", itertools.count(seed, 1000)
    # Nothing reads a soft token behind the last token of a causal model's input: there the prompt stays inside.
    tail = int(official or not shape.encodes) if tail is None else tail
    asked, dim = (parts.encoding_mean, shape.output) if query == "encoder" else (parts.embedding_mean, shape.dim)

    def choice(level: Level, options: int, prefer: int | None, **more: Any) -> "Choice":
        fixed = level == "instance" and control == "frozen"
        made = parts.Choice(
            options,
            dim=dim if level == "instance" else None,
            tasks=tasks if level == "task" else None,
            query=parts.asked(asked, control),
            temperature=cooling,
            activation=torch.relu if official and level == "instance" else None,
            prefer=None if official or fixed or level == "random" else prefer,
            spread=dim**-0.5 if fixed or (official and level == "instance") else 0.5 * (official and level == "task"),
            seed=next(drawn),
            entropy=0.0 if level == "random" else entropy,
            trained=level != "random",
            **more,
        )
        return parts.held(made, control) if level == "instance" else made

    split: Choice | None = None
    placement: Placement
    if isinstance(position, str):
        split = choice(position, length + 1, length)
        placement = parts.Adaptive(split, head=head, tail=tail, order="rotate" if official else order)
    else:
        placement = parts.Split(position, head=head, tail=tail)
    injection: Injection
    if deep:
        embedded(sees_input, "deep=True")
        injection = parts.HiddenStates(shape, placement)
    else:
        injection = parts.Embeddings(shape, placement, sees_input=sees_input)
    start = init or (parts.normal(1.0) if deep else parts.matched(shape.deviation))

    def free(number: int) -> "Generator":
        return parts.Free(length, injection.width, start, seed=seed + 1000 * number)

    generator = free(0)
    if bank and split is not None:
        generator = parts.Pool(split, *(free(number) for number in range(length + 1)))
    if pool > 1:
        mix = choice(pooled, pool, None, mode=mode, top=top)
        mix.activation = torch.tanh if official and position is None else None
        generator = parts.Pool(mix, *(free(number) for number in range(pool)))
    if lengths is not None:
        options = length - least + 1
        generator = parts.Shortened(generator, choice(lengths, options, options - 1), least=least)
    return generator, injection


RECIPE = Recipe(rate=0.3, head_rate=1e-2, epochs=20, patience=6)


def _method(name: str, summary: str, **settings: Any) -> Method:
    start = "random" if settings.get("deep") else "vocabulary"
    return Method(name, summary, PAPER, dynamic, RECIPE, init=start, given=settings, rates={"choice": 3e-3})


METHODS = (
    _method("dp-position", "prompt tuning whose split around the input is chosen for the task", position="task"),
    _method("dp-position-instance", "prompt tuning whose split is chosen for each input", position="instance"),
    _method("dp-length", "prompt tuning whose length is chosen for the task", lengths="task"),
    _method("dp-length-instance", "prompt tuning whose length is chosen for each input", lengths="instance"),
    _method("dp-vector", "a mixture of four prompts, weighted for each input", pool=4),
    _method("dp-vector-position", "a mixture of four prompts and a split, both for each input", pool=4,
            position="instance"),
    _method("dp-position-vector", "a split for the task, a mixture of four prompts for each input", pool=4,
            position="task"),
    _method("dp-bank", "a split for the task, and a prompt of its own for each split", position="task", bank=True),
    _method("dp-position-length", "a split and a length, both for each input", position="instance",
            lengths="instance"),
    _method("dp-deep", "deep prompts whose split is chosen for each input", position="instance", deep=True),
)  # fmt: skip
