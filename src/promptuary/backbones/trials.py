"""What is tried on a loaded model instead of believed of its family.

A trial runs the model in two ways that must say the same, one of them plain. Where the other says something else, or
the model's code does not go along with it, the plain way is taken ever after. Where there is no plain way, it is
refused: a model that says something else of embeddings than of their tokens, or of a row beside a longer one; attention
that ignores soft keys and values; texts that cannot be gone on with.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from promptuary.backbones import blind
from promptuary.backbones.backbone import Backbone
from promptuary.backbones.draft import Draft, padded
from promptuary.backbones.generation import Generation
from promptuary.backbones.padding import at, flush_right
from promptuary.errors import BackboneError
from promptuary.injections import Embeddings, KeyValues
from promptuary.values import Call, Instance, KeyValue, Layout, Prompt, Targets

SCALES = ("embed_scale", "embedding_multiplier")  # what towers call the factor of the embeddings they look up
UNLIKE = (
    RuntimeError,
    AttributeError,
    TypeError,
    LookupError,
    ValueError,
)  # what comes of layers that are not written as others


def reads(backbone: Backbone) -> bool:
    """Whether embeddings are read as their tokens are (some families scale or mask tokens on their way in)."""
    ids = _ids(backbone, 3, 10)
    return _agree(backbone, lambda: backbone.run(Call(_row(backbone, ids))).hidden, lambda: backbone.plain(ids))


def scale(backbone: Backbone) -> float:
    """The factor by which a model multiplies the embeddings that it looks up itself (Marian, Pegasus).

    Raises:
        BackboneError: where that is not all that it does with them.
    """
    tower = backbone.towers(backbone.model)[0][0]
    factor = float(next((getattr(tower, name) for name in SCALES if hasattr(tower, name)), 1.0))
    ids = _ids(backbone, 3, 10)
    row = _row(backbone, ids)
    scaled = Call(replace(row, embeds=row.embeds * factor))
    if not _agree(backbone, lambda: backbone.run(scaled).hidden, lambda: backbone.plain(ids)):
        raise BackboneError(
            f"{backbone.name!r} ({backbone.shape.family}) reads embeddings otherwise than the tokens they belong to, "
            "so soft tokens beside them would be in another measure. Models of this family are not driven."
        )
    return factor


def alone(backbone: Backbone) -> None:
    """Refuse a model that reads a row otherwise beside a longer one (MobileBERT and ConvBERT see padding).

    Raises:
        BackboneError: naming the family.
    """
    ids, mask = _two_rows(backbone, 10, 6)
    both, one = Call(_row(backbone, ids, mask)), Call(_row(backbone, ids[1:, :6]))
    if not _agree(backbone, lambda: backbone.run(both).hidden[1, :6], lambda: backbone.run(one).hidden[0]):
        why = (
            "Its eight bits are of LLM.int8(), which looks for large numbers over a whole batch. Load it with "
            "llm_int8_threshold=0, or in four bits ('nf4:NAME')."
            if getattr(backbone.model, "is_loaded_in_8bit", False)
            else "Models of this family are not driven."
        )
        raise BackboneError(
            f"{backbone.name!r} ({backbone.shape.family}) lets padding into its answers: a row would be answered "
            f"otherwise beside a longer one. {why}"
        )


def heard(backbone: Backbone) -> None:
    """Refuse a model on which soft keys and values would be ignored without a word.

    Raises:
        BackboneError: naming the part of the model.
    """
    shape, x = backbone.shape, _instance(backbone, _ids(backbone, 3, 7))
    spoken = Targets(x.ids[:, None, :2], torch.ones_like(x.ids[:, None, :2], dtype=torch.bool))
    for part in sorted({a.part for a in shape.attention}):
        inject = KeyValues(shape, parts=[part])
        outs = []
        for sign in (-1.0, 1.0):
            wave = torch.linspace(0.0, 6.0, inject.width, device=backbone.device).sin() * sign * 4
            call = inject(_prompt(rearrange(wave, "w -> 1 w").expand(2, -1), 1), x)
            with torch.no_grad():
                out = backbone.run(call, spoken if part != "encoder" else None)
            outs.append((out.hidden if out.targets is None else out.targets).float())
        if torch.equal(outs[0], outs[1]):
            raise BackboneError(
                f"{backbone.name!r} ({shape.family}): its {part} attention ignores soft keys and values, so deep "
                "prompts would silently do nothing. Please report the model to this project."
            )


def selects(backbone: Backbone) -> bool:
    """Whether the last layer, made of those rows alone that are read, says what it says among all (`last_layer.py`)."""
    ids, mask = _two_rows(backbone, 10, 8)
    columns = torch.tensor([[0, 9], [7, 3]], device=backbone.device)
    call = Call(_row(backbone, ids, mask))

    def some() -> Tensor:
        return at(backbone.run(replace(call, columns=columns)).hidden, columns)

    return _agree(backbone, some, lambda: at(backbone.run(call).hidden, columns))


def reads_apart(backbone: Backbone) -> bool:
    """Whether layers that go over the input alone, behind soft tokens that do not see it, say what they say of the
    whole row with a mask (`blind.py`).
    """
    ids, mask = _two_rows(backbone, 6, 4)
    prompt = _prompt(backbone.embed(ids[:1, :3] + 7)[0].float(), 2)
    call = Embeddings(backbone.shape, sees_input=False)(prompt, _instance(backbone, ids, mask))

    def said(apart: bool) -> Tensor:
        backbone.attachment.reads_apart = apart
        return backbone.run(call).hidden[mask]

    return _agree(backbone, lambda: said(True), lambda: said(False))


def goes_on(backbone: Backbone, left: Callable[[Call], Mapping[int, KeyValue]]) -> bool:
    """Whether a text behind the keys and values that its beginning has left is read as the whole text is."""
    ids = _ids(backbone, 3, 13)

    def behind() -> Tensor:
        known = left(Call(_row(backbone, ids[:, :4])))
        return backbone.run(Call(_row(backbone, ids[:, 4:]), known, start=ids.new_full((1,), 4))).hidden

    return _agree(backbone, behind, lambda: backbone.plain(ids)[:, 4:])


def goes_on_blind(backbone: Backbone, left: Callable[[Layout], Mapping[int, KeyValue]]) -> bool:
    """Whether a text behind the keys and values of soft tokens that do not see it is read as behind them in its row."""
    ids, mask = _two_rows(backbone, 6, 4)
    prompt = _prompt(backbone.embed(ids[:1, :3] + 7)[0].float(), 2)
    row = Embeddings(backbone.shape, sees_input=False)(prompt, _instance(backbone, ids, mask))
    spoken = Targets(ids[:, None, :2], mask[:, None, :2]) if backbone.shape.decodes else None

    def said(call: Call) -> Tensor:
        out = backbone.run(call, spoken)
        read = out.hidden[mask]
        return read if out.targets is None else torch.cat([read, rearrange(out.targets, "b c s h -> (b c s) h")])

    def behind() -> Tensor:
        soft = blind.alone(row)
        assert soft is not None
        return said(Call(_row(backbone, ids, mask), left(soft), start=ids.new_full((2,), 3)))

    return _agree(backbone, behind, lambda: said(row))


def packs(backbone: Backbone) -> bool:
    """Whether a text packed with another behind one row is read as by itself (`packing.py`).

    It is not where positions cannot be given, where attention has no hook, and where layers are recurrent.
    """
    ids = _ids(backbone, 3, 13)
    row, texts = ids[:, :4], rearrange(ids[:, 4:], "1 (c s) -> 1 c s", c=2)

    def packed() -> Tensor:
        out = backbone.run(Call(_row(backbone, row)), Targets(texts, torch.ones_like(texts, dtype=torch.bool)))
        assert out.targets is not None
        return out.targets[:, 1]

    return _agree(backbone, packed, lambda: backbone.plain(torch.cat([row, texts[:, 1, :-1]], 1))[:, 3:])


def flushes(backbone: Backbone, states: Callable[[Layout], Tensor]) -> bool:
    """Whether a row with padding before it is read as by itself (the state of a recurrent layer takes padding in).

    Arguments:
        states: the states of each column of a layout.
    """
    ids, mask = _two_rows(backbone, 10, 6)
    return _agree(
        backbone, lambda: states(flush_right(_row(backbone, ids, mask)))[1, -6:], lambda: backbone.plain(ids[1:, :6])[0]
    )


def goes_on_writing(backbone: Backbone, begin: Callable[[Call], Draft]) -> bool:
    """Whether a text that is written token by token has the scores of the whole text."""
    ids = _ids(backbone, 3, 10)

    def step_by_step() -> Tensor:
        draft = begin(Call(_row(backbone, ids[:, :5])))
        for token in ids[0, 5:].tolist():
            draft = backbone.advance(draft, [token])
        return draft.scores

    return _agree(backbone, step_by_step, lambda: backbone.logits(backbone.plain(ids)[:, -1]))


def writes_together(backbone: Backbone, generate: Callable[[Call, Generation], Tensor]) -> bool:
    """Whether texts that are written at once are those that are written one at a time (RWKV mixes up their states)."""
    ids, mask = _two_rows(backbone, 10, 6)
    how = Generation(max_new_tokens=8, end=())
    both = generate(Call(_row(backbone, ids, mask)), how)
    return torch.equal(both[1:], generate(Call(_row(backbone, ids[1:, :6])), how))


def allots(backbone: Backbone, generate: Callable[[Call, Generation], Tensor]) -> bool:
    """Whether a cache that is allotted at once gives the text that one which grows gives."""
    call, how = Call(_row(backbone, _ids(backbone, 3, 10))), Generation(max_new_tokens=8, end=())
    expected = generate(call, how)
    try:
        return torch.equal(generate(call, replace(how, cache="static")), expected)
    except UNLIKE:
        return False


def evens(backbone: Backbone) -> bool:
    """Whether padding before what a row has written changes nothing (BART's decoder numbers its tokens by columns)."""
    with torch.no_grad():
        begun = backbone.begin(Call(_row(backbone, _ids(backbone, 3, 8))))
    layers, mask = padded(begun, 2)
    moved = replace(begun, layers=layers, mask=mask)
    return _agree(backbone, lambda: backbone.advance(moved, [5]).scores, lambda: backbone.advance(begun, [5]).scores)


@torch.no_grad()
def _agree(backbone: Backbone, other: Callable[[], Tensor], plain: Callable[[], Tensor]) -> bool:
    """Whether two ways say the same, but for rounding."""
    expected = plain()
    try:
        found = other()
    except UNLIKE:
        return False
    gap = (found - expected).abs().max() / expected.abs().max()
    return bool(gap < torch.finfo(backbone.dtype).eps ** 0.5)


def _ids(backbone: Backbone, first: int, end: int) -> Int[Tensor, "1 tokens"]:
    return torch.arange(first, end, device=backbone.device)[None]


def _two_rows(
    backbone: Backbone, longer: int, shorter: int
) -> tuple[Int[Tensor, "2 {longer}"], Bool[Tensor, "2 {longer}"]]:
    """A row of all columns and one with padding behind."""
    ids = _ids(backbone, 3, 3 + longer)
    return torch.cat([ids, ids.flip(1)]), ids - 3 < torch.tensor([[longer], [shorter]], device=backbone.device)


def _row(
    backbone: Backbone, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"] | None = None
) -> Layout:
    """Tokens without any soft token."""
    columns = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    there = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return Layout(backbone.embed(ids), there, ids * 0, columns, columns[:, :0])


def _instance(
    backbone: Backbone, ids: Int[Tensor, "batch tokens"], mask: Bool[Tensor, "batch tokens"] | None = None
) -> Instance:
    there = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return Instance(ids, there, backbone.embed(ids), ids * 0, ids[:, 0])


def _prompt(values: Float[Tensor, "prompt width"], rows: int) -> Prompt:
    return Prompt(values.expand(rows, -1, -1), torch.ones(rows, len(values), device=values.device))
