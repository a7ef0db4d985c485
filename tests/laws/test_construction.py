"""What cannot work says so when it is built, in a sentence that names what to write instead."""

import re
from typing import Any

import pytest
import torch
from transformers import BertModel, PreTrainedModel

from promptuary.backbones import attention
from promptuary.backbones.load import wrap
from promptuary.errors import BackboneError, SettingError
from promptuary.generators import Free, Generator
from promptuary.initial import normal
from promptuary.injections import Embeddings, HiddenStates, Injection, KeyValues, Late
from promptuary.methods import METHODS, method
from promptuary.model import SoftPrompted
from promptuary.placements import Slots, Split
from promptuary.values import Targets
from tests.answers import EXACT, answers, bare_answer, distance, parts, prompted
from tests.backbones import FAMILIES, HOOKED, POSITIONS, backbone, bare, config, fresh
from tests.laws.checks import REFUSED
from tests.strategies import Text, text


@pytest.mark.parametrize("method_name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_method_is_built_or_refuses_and_names_methods_that_are_built(family: str, method_name: str) -> None:
    why = REFUSED.get((family, method_name))
    if why is None:
        assert prompted(family, method_name).backbone.name == family
        return
    with pytest.raises(BackboneError) as caught:
        METHODS[method_name].parts(backbone(family).shape)
    named = [m for m in re.findall(r"'([\w-]+)'", str(caught.value)) if m in METHODS]
    assert named
    assert all((family, m) not in REFUSED for m in named)


def test_keys_and_values_are_refused_where_there_is_no_hook_and_late_prompts_where_the_model_is_causal() -> None:
    for family, name in REFUSED:
        injection = parts("bert", name)[1]
        hookless = family not in HOOKED and isinstance(injection, KeyValues)
        assert hookless or (FAMILIES[family].kind == "decoder" and isinstance(injection, Late))


def long(name: str, length: int) -> tuple[Generator, Injection]:
    with torch.no_grad():
        return METHODS[name].parts(backbone("bert").shape, length=length)


@pytest.mark.parametrize("method_name", [m for m in METHODS if "length" in METHODS[m].settings()])
def test_a_prompt_that_leaves_no_room_is_refused(method_name: str) -> None:
    b = backbone("bert")
    generator, injection = long(method_name, POSITIONS)
    if not injection.occupies(POSITIONS):
        SoftPrompted(b, generator, injection)  # keys and values stand in no row
        return
    with pytest.raises(SettingError, match=f"no room.*below {POSITIONS}"):
        SoftPrompted(b, generator, injection)
    assert SoftPrompted(b, *long(method_name, POSITIONS - 1)).room == 1


def test_a_generator_of_another_width_is_refused() -> None:
    b = backbone("bert")
    with pytest.raises(SettingError, match=r"31 numbers.*takes 32.*width=32"):
        SoftPrompted(b, Free(3, 31, normal(1.0)), Embeddings(b.shape))


@pytest.mark.parametrize("injection", [Embeddings, HiddenStates])
def test_a_split_beyond_the_prompt_is_refused(injection: type[Embeddings] | type[HiddenStates]) -> None:
    b = backbone("bert")
    made = injection(b.shape, Split(4))
    with pytest.raises(SettingError, match=r"Split\(before=4\).*3 soft tokens.*before <= 3"):
        SoftPrompted(b, Free(3, made.width, normal(1.0)), made)


ENCODERS: dict[str, list[dict[str, Any]]] = {
    "p-tuning": [{"encoder": "lstm"}, {"encoder": "mlp"}],
    "prefix-tuning": [{}],
    **{m: [{}] for m in METHODS if m.split("-")[0] in ("ipt", "dp", "idpg", "ipl", "smop", "lpt", "attempt")},
    "residual-prompt-tuning": [{}],
    "multitask-prompt-tuning": [{}],
}


@pytest.mark.parametrize("method_name", [m for m in METHODS if "length" in METHODS[m].settings()])
@torch.no_grad()
def test_no_soft_tokens_are_the_bare_model_or_a_sentence_that_names_what_to_write(method_name: str) -> None:
    b, row = backbone("bert"), text(5, seed=0)
    for settings in ENCODERS.get(method_name, []):
        with pytest.raises(SettingError, match=r"length=0.*1 or more.*'frozen'"):
            METHODS[method_name].parts(b.shape, length=0, **settings)
    if method_name not in ENCODERS:
        model = SoftPrompted(b, *METHODS[method_name].parts(b.shape, length=0))
        assert distance(answers(model, [row])[0], bare_answer(bare("bert"), row)) <= EXACT
        assert not [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize("wrong", [{"before": -1}, {"head": -1}, {"tail": -2}])
def test_a_negative_split_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="expected 0 or more"):
        Split(**wrong)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2.0])
def test_a_dropout_that_is_no_share_is_refused(dropout: float) -> None:
    with pytest.raises(SettingError, match="from 0 up to 1"):
        SoftPrompted(backbone("bert"), *parts("bert", "prompt-tuning"), dropout=dropout)


@pytest.mark.parametrize("marks", [1, 2, 4])
def test_a_template_with_another_number_of_marks_is_refused(marks: int) -> None:
    b = backbone("bert")
    model = SoftPrompted(b, Free(3, b.shape.dim, normal(1.0)), Embeddings(b.shape, Slots()))
    row = Text([-1] * marks + [7, 8], [0] * (marks + 2), [])
    good = Text([-1, -2, -3, 7], [0] * 4, [])
    with pytest.raises(SettingError, match=f"marks {marks} soft tokens.*makes 3.*length={marks}"):
        answers(model, [good, row])


def test_parts_that_a_backbone_lacks_are_refused() -> None:
    for family, wrong in (("gpt2", ["cross"]), ("bert", ["decoder"]), ("t5", ["nonsense"]), ("t5", [])):
        with pytest.raises(SettingError, match="expected some of"):
            KeyValues(backbone(family).shape, parts=wrong)
    with pytest.raises(SettingError, match="0 or more"):
        KeyValues(backbone("gpt2").shape, start=-1)


@pytest.mark.parametrize("start", [1, 2])
def test_more_soft_tokens_than_positions_before_the_input_are_refused(start: int) -> None:
    b = backbone("gpt2")
    inject = KeyValues(b.shape, start=start)
    with pytest.raises(SettingError, match=f"start={start}.*3 soft tokens.*start=0.*start=3"):
        SoftPrompted(b, Free(3, inject.width, normal(1.0)), inject)


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(SettingError, match="Did you mean 'prompt-tuning'"):
        method("promt-tuning")
    with pytest.raises(SettingError, match="Known are"):
        method("zzz")


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_setting_names_the_nearest(name: str) -> None:
    shape = backbone("bert").shape
    with pytest.raises(SettingError, match=f"{name!r} has no setting 'lenght'"):
        METHODS[name].parts(shape, lenght=3)
    if "length" in METHODS[name].settings():
        with pytest.raises(SettingError, match="Did you mean 'length'"):
            METHODS[name].parts(shape, lenght=3)
        with pytest.raises(SettingError, match=r"[01] or more"):
            METHODS[name].parts(shape, length=-1)


def test_a_model_of_another_kind_is_refused() -> None:
    wrong = config("bert")
    wrong.model_type = "vit"
    with pytest.raises(BackboneError, match="not driven by this library"):
        wrap(PreTrainedModel(wrong), "odd")


def test_an_encoder_does_not_continue_text() -> None:
    model = prompted("bert", "prompt-tuning")
    ids = torch.tensor([[5, 6]])
    with pytest.raises(BackboneError, match="cannot continue a text"):
        model(model.instance(ids, ids > 0), Targets(ids[:, None], ids[:, None] > 0))


def test_a_backbone_without_a_trained_head_scores_no_words() -> None:
    made = config("bert")
    made.architectures = ["BertModel"]
    b = wrap(BertModel(made), "headless")
    model = SoftPrompted(b, *METHODS["prompt-tuning"].parts(b.shape, length=2))
    ids = torch.tensor([[5, 6]])
    out = model(model.instance(ids, ids > 0))
    with pytest.raises(BackboneError, match="no trained language-model head"):
        out.logits(out.hidden)


def test_a_model_whose_attention_would_ignore_soft_keys_and_values_is_refused_at_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        attention.Prefix, "__call__", lambda _s, _m, _q, key, value, mask, bias: (key, value, mask, bias)
    )
    with pytest.raises(BackboneError, match="ignores soft keys and values"):
        wrap(fresh("bert"), "deaf")
