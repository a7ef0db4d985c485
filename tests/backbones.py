"""Tiny random models of every family, with weights enlarged so that their outputs are not flat.

`bare` is the oracle: a model of transformers as transformers builds it, plain attention, none of our code on it.
`backbone` wraps another copy with the very same weights. Both are built once per process; callers leave them as
they found them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

import torch
import transformers as hf
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import NewGELUActivation

from promptuary.backbones.backbone import Backbone
from promptuary.backbones.load import wrap

VOCABULARY = 99
POSITIONS = 64

Kind = Literal["encoder", "decoder", "encoder_decoder"]


@dataclass(frozen=True)
class Family:
    kind: Kind
    model: type[PreTrainedModel]
    config: Callable[..., PreTrainedConfig]
    settings: dict[str, Any]


def _sizes(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "pad_token_id": 0,
        **more,
    }


def _towers(**more: Any) -> dict[str, Any]:
    return {"d_model": 32, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1, **more}


_T5 = _towers(d_kv=6, d_ff=48, num_layers=2, num_heads=4, relative_attention_num_buckets=8)
_GEMMA = _sizes(
    num_key_value_heads=2, head_dim=8, sliding_window=6, layer_types=["sliding_attention", "full_attention"]
)

FAMILIES = MappingProxyType(
    {
        "bert": Family("encoder", hf.BertForMaskedLM, hf.BertConfig, _sizes()),
        "roberta": Family("encoder", hf.RobertaForMaskedLM, hf.RobertaConfig, _sizes(pad_token_id=1)),
        "distilbert": Family(
            "encoder",
            hf.DistilBertForMaskedLM,
            hf.DistilBertConfig,
            {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "max_position_embeddings": POSITIONS},
        ),
        "albert": Family("encoder", hf.AlbertForMaskedLM, hf.AlbertConfig, _sizes(embedding_size=16)),
        "electra": Family("encoder", hf.ElectraForMaskedLM, hf.ElectraConfig, _sizes(embedding_size=16)),
        "modernbert": Family(
            "encoder",
            hf.ModernBertForMaskedLM,
            hf.ModernBertConfig,
            _sizes(
                num_hidden_layers=3,
                local_attention=8,
                global_attn_every_n_layers=2,
                bos_token_id=1,
                eos_token_id=2,
                cls_token_id=1,
                sep_token_id=2,
            ),
        ),
        "deberta": Family(
            "encoder",
            hf.DebertaV2ForMaskedLM,
            hf.DebertaV2Config,
            _sizes(
                relative_attention=True,
                pos_att_type=["p2c", "c2p"],
                position_biased_input=False,
                share_att_key=True,
                norm_rel_ebd="layer_norm",
                position_buckets=8,
            ),
        ),
        "gpt2": Family(
            "decoder",
            hf.GPT2LMHeadModel,
            hf.GPT2Config,
            {
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": POSITIONS,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        ),
        "llama": Family("decoder", hf.LlamaForCausalLM, hf.LlamaConfig, _sizes(num_key_value_heads=2)),
        "qwen3": Family("decoder", hf.Qwen3ForCausalLM, hf.Qwen3Config, _sizes(num_key_value_heads=2, head_dim=16)),
        "mistral": Family(
            "decoder", hf.MistralForCausalLM, hf.MistralConfig, _sizes(num_key_value_heads=2, sliding_window=4)
        ),
        "gemma2": Family(
            "decoder",
            hf.Gemma2ForCausalLM,
            hf.Gemma2Config,
            {**_GEMMA, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        ),
        "gemma3": Family("decoder", hf.Gemma3ForCausalLM, hf.Gemma3TextConfig, {**_GEMMA, "query_pre_attn_scalar": 8}),
        "neox": Family("decoder", hf.GPTNeoXForCausalLM, hf.GPTNeoXConfig, _sizes()),
        "opt": Family(
            "decoder",
            hf.OPTForCausalLM,
            hf.OPTConfig,
            {
                "hidden_size": 32,
                "ffn_dim": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": POSITIONS,
                "word_embed_proj_dim": 16,
                "pad_token_id": 1,
            },
        ),
        "t5": Family(
            "encoder_decoder",
            hf.T5ForConditionalGeneration,
            hf.T5Config,
            {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        ),
        "mt5": Family("encoder_decoder", hf.MT5ForConditionalGeneration, hf.MT5Config, _T5),
        "bart": Family(
            "encoder_decoder",
            hf.BartForConditionalGeneration,
            hf.BartConfig,
            _towers(
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=48,
                decoder_ffn_dim=48,
                max_position_embeddings=POSITIONS,
                pad_token_id=1,
                bos_token_id=0,
                eos_token_id=2,
                decoder_start_token_id=2,
            ),
        ),
    }
)

CAUSAL = tuple(name for name, family in FAMILIES.items() if family.kind == "decoder")
ENCODERS = tuple(name for name, family in FAMILIES.items() if family.kind == "encoder")
ENCODER_DECODERS = tuple(name for name, family in FAMILIES.items() if family.kind == "encoder_decoder")
HOOKED = tuple(name for name in FAMILIES if name != "deberta")  # whose attention takes soft keys and values


def config(name: str, **changes: Any) -> PreTrainedConfig:
    """A small configuration of the family, without dropout; `changes` override single fields."""
    family = FAMILIES[name]
    made = family.config(vocab_size=VOCABULARY, **{**family.settings, **changes})
    for key, value in made.to_dict().items():
        if "drop" in key and isinstance(value, float):
            setattr(made, key, 0.0)
    made.architectures = [family.model.__name__]
    return made


def fresh(
    name: str, *, dtype: torch.dtype = torch.float32, attention: str = "eager", **changes: Any
) -> PreTrainedModel:
    """A new model; equal arguments give equal weights."""
    made = config(name, **changes)
    made._attn_implementation = attention
    with torch.random.fork_rng():
        torch.manual_seed(20)
        model = FAMILIES[name].model(made).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 0.3)
            else:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.requires_grad_(False)
    # Positions and padding ids have rows of zeros in some families; a random row there is fine and stricter.
    return model.to(dtype)


@cache
def bare(name: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """The oracle: the same weights, as transformers runs them; in half precision, GELU rounds once."""
    model = fresh(name, dtype=dtype, **changes)
    for module in model.modules() if dtype != torch.float32 else ():
        if isinstance(module, NewGELUActivation):
            module.forward = partial(F.gelu, approximate="tanh")
    return model


def dropping(name: str, share: float = 0.3) -> Backbone:
    """A family of its own whose layers drop a share of what goes through them while it is in training mode."""
    b = wrap(fresh(name), name)
    for module in b.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        elif hasattr(module, "attention_dropout"):  # a number, where attention is a function
            module.attention_dropout = share
    return b


@cache
def backbone(name: str, *, dtype: torch.dtype = torch.float32, **changes: Any) -> Backbone:
    """The family as this library drives it."""
    return wrap(fresh(name, dtype=dtype, **changes), name)
