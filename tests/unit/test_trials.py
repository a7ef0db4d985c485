"""Models that are not what they seem: what is tried at loading is mended, or refused with a sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedModel

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.generation import Generation
from promptuary.backbones.load import wrap
from promptuary.errors import BackboneError
from promptuary.placements import bare
from promptuary.values import Call, Instance
from tests.answers import gap
from tests.backbones import POSITIONS, VOCABULARY

_TOWERS: dict[str, Any] = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": POSITIONS,
    "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 0, "dropout": 0.0,
    "decoder_vocab_size": VOCABULARY, "forced_eos_token_id": None,
}  # fmt: skip
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": POSITIONS, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def made(model: Callable[..., PreTrainedModel], config: Any) -> PreTrainedModel:
    """A model with weights that are not flat."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        found = model(config).eval()
        for p in found.parameters():
            if p.dim() > 1:
                p.data.normal_(0.0, 0.3)
    return found.requires_grad_(False)


def row(b: Backbone, *texts: list[int]) -> Call:
    """Texts of their own lengths, padded behind."""
    longest = max(len(text) for text in texts)
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    mask = torch.arange(longest) < torch.tensor([[len(text)] for text in texts])
    return Call(bare(Instance(ids, mask, b.embed(ids), ids * 0, torch.zeros(len(ids), dtype=torch.long))))


SCALED = {
    "marian": (hf.MarianMTModel, hf.MarianConfig),
    "pegasus": (hf.PegasusForConditionalGeneration, hf.PegasusConfig),
    "blenderbot-small": (hf.BlenderbotSmallForConditionalGeneration, hf.BlenderbotSmallConfig),
    "mvp": (hf.MvpForConditionalGeneration, hf.MvpConfig),
}


@pytest.mark.parametrize("scales", [True, False])
@pytest.mark.parametrize("family", SCALED)
def test_embeddings_that_a_tower_scales_itself_are_scaled(family: str, scales: bool) -> None:
    model, config = SCALED[family]
    plain = made(model, config(**_TOWERS, scale_embedding=scales))
    b = wrap(made(model, config(**_TOWERS, scale_embedding=scales)), family)
    ids = [5, 9, 23, 41, 8]
    states: Tensor = plain.get_encoder()(input_ids=torch.tensor([ids])).last_hidden_state
    assert gap(b.run(row(b, ids)).hidden, states) < 1e-5
    table = plain.get_encoder().get_input_embeddings().weight
    assert b.shape.deviation == pytest.approx(float(table.std()) * (32**0.5 if scales else 1.0), rel=0.02)
    expected = plain.generate(torch.tensor([ids]), max_new_tokens=6, num_beams=1, do_sample=False, eos_token_id=None)
    assert b.generate(row(b, ids), Generation(max_new_tokens=6, end=())).tolist() == expected[:, 1:].tolist()


def test_embeddings_that_are_masked_on_their_way_in_are_refused() -> None:
    config = hf.EsmConfig(**_SIZES, token_dropout=True, mask_token_id=4, position_embedding_type="rotary")
    with pytest.raises(BackboneError, match="reads embeddings otherwise than the tokens"):
        wrap(made(hf.EsmForMaskedLM, config), "esm")


def test_a_model_that_sees_padding_is_refused() -> None:
    config = hf.ConvBertConfig(**_SIZES, embedding_size=32, head_ratio=2, conv_kernel_size=3)
    with pytest.raises(BackboneError, match="lets padding into its answers"):
        wrap(made(hf.ConvBertModel, config), "convbert")


def recurrent() -> Backbone:
    config = hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0, use_mambapy=False
    )
    return wrap(made(hf.MambaForCausalLM, config), "mamba")


def test_a_state_that_is_no_keys_and_values_is_not_written_on_from() -> None:
    b, text = recurrent(), [5, 9, 23, 41, 8]
    with pytest.raises(BackboneError, match="Use generate"):
        b.begin(row(b, text))
    written = list(text)
    for _ in range(4):
        written.append(int(b.logits(b.plain(torch.tensor([written]))[:, -1]).argmax()))
    assert b.generate(row(b, text), Generation(max_new_tokens=4, end=())).tolist() == [written[5:]]


def test_rows_that_others_would_change_are_written_alone() -> None:
    config = hf.RwkvConfig(
        vocab_size=VOCABULARY, hidden_size=32, attention_hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        context_length=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    texts, how = ([5, 9, 23, 41, 8], [7, 12, 31]), Generation(max_new_tokens=4, end=())
    mamba, rwkv = recurrent(), wrap(made(hf.RwkvForCausalLM, config), "rwkv")
    assert mamba.generate(row(mamba, *texts), how).tolist() == [
        mamba.generate(row(mamba, text), how)[0].tolist() for text in texts
    ]
    for call, more in ((row(rwkv, *texts), {}), (row(rwkv, texts[0]), {"beams": 2})):
        with pytest.raises(BackboneError, match="batch=1"):
            rwkv.generate(call, Generation(max_new_tokens=4, end=(), **more))
    written = list(texts[0])
    for _ in range(4):
        written.append(int(rwkv.logits(rwkv.plain(torch.tensor([written]))[:, -1]).argmax()))
    assert rwkv.generate(row(rwkv, texts[0]), how).tolist() == [written[5:]]


def test_a_cache_that_would_write_another_text_is_refused() -> None:
    config = hf.GPTNeoConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
        window_size=4, max_position_embeddings=POSITIONS, intermediate_size=48, bos_token_id=1, eos_token_id=2,
        resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    b = wrap(made(hf.GPTNeoForCausalLM, config), "neo")
    with pytest.raises(BackboneError, match="cache='dynamic'"):
        b.generate(row(b, [5, 9, 23, 41, 8]), Generation(cache="static"))
    assert b.generate(row(b, [5, 9, 23]), Generation(max_new_tokens=3, end=())).shape == (1, 3)
