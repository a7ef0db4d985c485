"""Checks of limits: how far a prefix reaches, which backbones are refused, how long an input may be."""

import copy
import tempfile
import warnings
from pathlib import Path

import torch
import transformers as hf
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig
from torch import nn

from peers.sides import Finding, P, Side, backbone, furthest, like, ours, random, rows, theirs, tiny
from promptuary.backbones.backbone import Backbone
from promptuary.checkpoint import check_backbone, read_manifest, save_prompt
from promptuary.errors import CheckpointError, PromptuaryError
from promptuary.injections import KeyValues


def a15() -> Finding:
    """Prefix tuning on T5: what the prefix reaches."""
    model = tiny(hf.T5ForConditionalGeneration, "t5")
    c, (text,) = model.config, rows(1, 8, 8)
    ids, mask = text[None], torch.ones(1, 8, dtype=torch.long)
    one = c.num_layers * 2 * c.num_heads * c.d_kv  # the width of one part's soft token, by the paper
    # The token dimension that PEFT derives itself is the model's width, which here is not heads times d_kv.
    settings = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, token_dim=c.num_heads * c.d_kv)
    to = backbone(model)
    inject = KeyValues(to.shape)
    moved, parts = {}, {}
    with torch.no_grad():
        pair = []
        for seed in (0, 1):
            prompted = theirs(model, settings)
            weight = prompted.prompt_encoder["default"].embedding.weight
            weight.data.copy_(random(*weight.shape, seed=seed, scale=3.0))
            pair.append(
                prompted(input_ids=ids, attention_mask=mask, decoder_input_ids=ids[:, :2]).encoder_last_hidden_state
            )
        moved["peft"], parts["peft"] = furthest([tuple(pair)]), weight.numel() / P / one
        pair = []
        for seed in (0, 1):
            own = ours(to, random(P, inject.width, seed=seed, scale=3.0), inject)
            pair.append(own(own.instance(ids, mask.bool())).hidden)
        moved["ours"], parts["ours"] = furthest([tuple(pair)]), inject.width / one

    def side(name: str) -> Side:
        values = {"moved": moved[name], "parts": parts[name]}
        return Side(f"{moved[name]:.2g}; {parts[name]:.2g} of 3", values, moved[name] > 0 and parts[name] == 3)

    return Finding(
        "A15",
        "prefix tuning on T5: change of the encoder's states between two prefixes; parts of the model that have one",
        "the paper: three prefixes (encoder, decoder, cross), each seen where it stands",
        side("peft"),
        side("ours"),
    )


def a16() -> Finding:
    """A prompt on a model it was not tuned on."""
    model = tiny(hf.LlamaForCausalLM, "llama")
    others = {
        "another family": tiny(hf.GPT2LMHeadModel, "gpt2"),
        "other weights": tiny(hf.LlamaForCausalLM, "llama", seed=1),
        "more layers": tiny(hf.LlamaForCausalLM, "llama", num_hidden_layers=3),
    }
    taken: dict[str, list[str]] = {"peft": [], "ours": []}
    to = backbone(model)
    own = ours(to, random(P, 32))
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        theirs(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)).save_pretrained(one)
        facts = {"method": "prompt-tuning", "settings": {"length": P}, "seed": 0, "backbone": to.name, "run": {}}
        facts |= {"fingerprint": to.fingerprint(), "family": to.shape.family, "dim": to.shape.dim}
        save_prompt(Path(two), facts, own.generator, own.injection, nn.Identity())
        for name, other in others.items():
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a warning would count as a word, but for one of transformers to PEFT
                warnings.simplefilter("ignore", FutureWarning)
                try:
                    PeftModel.from_pretrained(copy.deepcopy(other), one)
                    taken["peft"].append(name)
                except (RuntimeError, ValueError, Warning):
                    pass
            if _accepts(backbone(other), Path(two)):
                taken["ours"].append(name)
        same = _accepts(backbone(model), Path(two))
    return Finding(
        "A16",
        "wrong backbones of the same width that take a saved prompt without a word (another family, other weights, "
        "more layers)",
        "none may be; the right one must be",
        Side(f"{len(taken['peft'])}/3", {"accepted": len(taken["peft"])}, not taken["peft"]),
        Side(
            f"{len(taken['ours'])}/3, refused with a sentence; the right one is accepted: {'yes' if same else 'no'}",
            {"accepted": len(taken["ours"]), "right one": same},
            not taken["ours"] and same,
        ),
    )


def _accepts(to: Backbone, folder: Path) -> bool:
    try:
        check_backbone(read_manifest(folder), to, folder)
    except CheckpointError:
        return False
    return True


def a19() -> Finding:
    """Positions that a prefix takes from an encoder's input."""
    model = tiny(hf.BertForMaskedLM, "bert", num_labels=2)
    limit = model.config.max_position_embeddings
    judge = like(hf.BertForSequenceClassification, model)
    prompted = theirs(judge, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P))
    to = backbone(model)
    inject = KeyValues(to.shape)
    own = ours(to, random(P, inject.width), inject)

    def longest(call: object) -> int:
        for length in range(limit, 0, -1):
            (text,) = rows(1, length, length)
            try:
                with torch.no_grad():
                    call(text[None], torch.ones(1, length, dtype=torch.long))
            except (IndexError, RuntimeError, ValueError, PromptuaryError):
                continue
            return length
        return 0

    bare = longest(lambda ids, mask: judge(input_ids=ids, attention_mask=mask))
    peft = longest(lambda ids, mask: prompted(input_ids=ids, attention_mask=mask))
    mine = longest(lambda ids, mask: own(own.instance(ids, mask.bool())))
    return Finding(
        "A19",
        f"longest input of a BERT of {limit} positions under a prefix of {P}",
        f"the bare model: {bare}",
        Side(str(peft), {"tokens": peft}, peft == bare),
        Side(str(mine), {"tokens": mine}, mine == bare),
    )
