"""Checks of generated text: padding, caches, several turns, switching the prompt off, windows."""

import warnings
from collections.abc import Callable

import torch
import transformers as hf
from peft import MultitaskPromptTuningConfig, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor

from peers.sides import (
    GREEDY,
    STEPS,
    Finding,
    Heard,
    P,
    Side,
    backbone,
    counts,
    embedded,
    furthest,
    gaps,
    ours,
    padded,
    peft_write,
    prefixed,
    random,
    rows,
    stepwise,
    theirs,
    tiny,
    write,
)
from promptuary.injections import Embeddings, KeyValues
from promptuary.values import Targets

CAUSAL = {
    "GPT-2": (hf.GPT2LMHeadModel, "gpt2", {}),
    "Qwen3": (hf.Qwen3ForCausalLM, "qwen3", {}),
    "Llama": (hf.LlamaForCausalLM, "llama", {}),
    "GPT-NeoX": (hf.GPTNeoXForCausalLM, "neox", {}),
    "OPT": (hf.OPTForCausalLM, "opt", {"word_embed_proj_dim": 32, "pad_token_id": 0}),
}


def causal(name: str) -> hf.PreTrainedModel:
    kind, family, changes = CAUSAL[name]
    return tiny(kind, family, tie_word_embeddings=False, **changes)  # a tied head would repeat one token for ever


def a01() -> Finding:
    """Left-padded generation."""
    texts = rows(60, 4, 9)
    ids, mask = padded(texts, 10, left=True)
    wrong: dict[str, dict[str, int]] = {"peft": {}, "ours": {}}
    for name in CAUSAL:
        model, table = causal(name), random(P, 32)
        right = torch.stack([stepwise(model, embedded(model, table, text))[0] for text in texts])
        settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
        sides = {
            "peft": peft_write(theirs(model, settings, table), ids, mask)[0],
            "ours": write(ours(backbone(model), table), ids, mask)[0],
        }
        for side, written in sides.items():
            wrong[side][name] = int((written != right).any(1).sum())
    return Finding(
        "A1",
        "greedy continuations changed by left padding to 10 tokens, prompt tuning",
        "the bare model on prompt and text as one unpadded row, step by step",
        counts(wrong["peft"], 60),
        counts(wrong["ours"], 60),
    )


def a06() -> Finding:
    """Prefix tuning on left-padded rows: the scores training sees."""
    texts = rows(8, 4, 9)
    ids, mask = padded(texts, 10, left=True)
    far: dict[str, dict[str, float]] = {"peft": {}, "ours": {}}
    for name in ("GPT-2", "Qwen3", "Llama"):
        model = causal(name)
        to = backbone(model)
        inject = KeyValues(to.shape)
        table = random(P, inject.width)
        theirs_ = theirs(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P), table)
        own = ours(to, table, inject)
        with torch.no_grad():
            trained = theirs_(input_ids=ids, attention_mask=mask).logits[:, -1]
            out = own(own.instance(ids, mask.bool()))
            scores = out.logits(out.hidden)[:, -1]
        generated = peft_write(theirs_, ids, mask)[1], write(own, ids, mask)[1]
        # PEFT's own convention counts the prefix as P positions, ours leaves all positions to the text.
        for side, start, got in (("peft", P, (trained, generated[0])), ("ours", 0, (scores, generated[1]))):
            right = torch.stack([prefixed(model, table, text, start=start)[-1] for text in texts])
            far[side][f"{name} training"] = furthest([(got[0], right)])
            far[side][f"{name} generation"] = furthest([(got[1], right)])
    return Finding(
        "A6",
        "last-token logits of left-padded rows, prefix tuning: distance from the unpadded row",
        "the bare model on each unpadded row, the prefix as its cache",
        gaps(far["peft"]),
        gaps(far["ours"]),
    )


def a08() -> Finding:
    """One prompt in training and in generation (T5)."""
    model = tiny(hf.T5ForConditionalGeneration, "t5")
    start = model.config.decoder_start_token_id
    (text,) = rows(1, 6, 6)
    settings = MultitaskPromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_tasks=2, num_virtual_tokens=P)
    prompted = theirs(model, settings)
    encoder = prompted.prompt_encoder["default"]
    for number, parameter in enumerate(encoder.parameters()):
        parameter.data.copy_(random(*parameter.shape, seed=number))
    task, ids = torch.zeros(1, dtype=torch.long), text[None]
    mask, begun = torch.ones_like(ids), torch.tensor([[start]])
    with torch.no_grad():
        table = prompted.get_prompt(1, task)[0]
        half = table.shape[0] // P == 2
        trained = prompted(input_ids=ids, attention_mask=mask, labels=ids[:, :1], task_ids=task).logits[0, -1]
        written = model.get_input_embeddings()(begun)
        if half:
            written = torch.cat([table[None, P:], written], 1)
        reference = model(inputs_embeds=embedded(model, table[:P], text), decoder_inputs_embeds=written).logits[0, -1]
    generated = peft_write(prompted, ids, mask, task_ids=task)[1][0]
    own = ours(backbone(model), table[:P])
    targets = Targets(ids[None, :, :1], torch.ones(1, 1, 1, dtype=torch.bool))
    with torch.no_grad():
        out = own(own.instance(ids, mask.bool()), targets)
        scores = out.logits(out.targets)[0, 0, 0]
        right = model(inputs_embeds=embedded(model, table[:P], text), decoder_input_ids=begun).logits[0, -1]
    return Finding(
        "A8",
        "first-token logits on T5, multitask prompt tuning (ours: prompt tuning with the same numbers)",
        "the bare model, called as that library's training calls it",
        gaps({"training": furthest([(trained, reference)]), "generation": furthest([(generated, reference)])}),
        gaps({"training": furthest([(scores, right)]), "generation": furthest([(write(own, ids, mask)[1][0], right)])}),
    )


def a11() -> Finding:
    """A second turn after a first one."""
    far: dict[str, dict[str, float]] = {"peft": {}, "ours": {}}
    first, second = rows(2, 6, 6)
    for name in ("GPT-2", "Qwen3", "Llama"):
        model, table = causal(name), random(P, 32)
        prompted = theirs(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P), table)
        with torch.no_grad():
            turn = prompted.generate(input_ids=first[None], return_dict_in_generate=True, use_cache=True, **GREEDY)
        ids = torch.cat([turn.sequences[0], second])[None]
        right = stepwise(model, embedded(model, table, ids[0]), 1)[1]
        again = peft_write(prompted, ids, torch.ones_like(ids), past_key_values=turn.past_key_values)[1][0]
        own = ours(backbone(model), table)
        far["peft"][name] = furthest([(again, right)])
        far["ours"][name] = furthest([(write(own, ids, torch.ones_like(ids))[1][0], right)])
    return Finding(
        "A11",
        "first logits of a second turn (PEFT continues its kept cache; ours has no hand-over and reads the whole turn)",
        "the bare model on prompt, first turn and second turn as one row",
        gaps(far["peft"]),
        gaps(far["ours"]),
    )


def a12() -> Finding:
    """The prompt switched off."""
    far: dict[str, dict[str, float]] = {"peft": {}, "ours": {}}
    (text,) = rows(1, 6, 6)
    ids, mask = text[None], torch.ones(1, 6, dtype=torch.long)
    for name, kind, family in (
        ("T5", hf.T5ForConditionalGeneration, "t5"),
        ("BART", hf.BartForConditionalGeneration, "bart"),
    ):
        model = tiny(kind, family)
        heard = Heard()
        with torch.no_grad():
            model.generate(input_ids=ids, attention_mask=mask, logits_processor=[heard], **GREEDY)
        right = heard.steps[0]
        settings = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P, num_transformer_submodules=1)
        prompted = theirs(model, settings, random(P, 32))
        with prompted.disable_adapter():
            far["peft"][name] = furthest([(peft_write(prompted, ids, mask)[1], right)])
        to = backbone(model)
        write(ours(to, random(P, 32)), ids, mask)
        far["ours"][name] = furthest([(write(ours(to, torch.zeros(0, 32)), ids, mask)[1], right)])
    return Finding(
        "A12",
        "first generated logits with the prompt off (PEFT: disable_adapter; ours: length 0 on a shared backbone)",
        "the bare model's own generation",
        gaps(far["peft"]),
        gaps(far["ours"]),
    )


def a13() -> Finding:
    """OPT, prefix tuning, no cache."""
    model, texts = causal("OPT"), rows(20, 6, 6)
    ids = torch.stack(texts)
    mask = torch.ones_like(ids)
    to = backbone(model)
    inject = KeyValues(to.shape)
    table = random(P, inject.width)
    prompted = theirs(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P), table)
    own = ours(to, table, inject)

    def anew(written: Tensor) -> Tensor:
        with torch.no_grad():
            out = own(own.instance(written, torch.ones_like(written, dtype=torch.bool)))
            return out.logits(out.hidden[:, -1])

    def by_hand(text: Tensor, start: int) -> Tensor:
        return _continued(text[None], lambda t: prefixed(model, table, t[0], start=start)[None, -1])[0]

    def wrong(written: Tensor, start: int) -> int:
        return int((written != torch.stack([by_hand(text, start) for text in texts])).any(1).sum())

    return Finding(
        "A13",
        "greedy continuations on OPT with a prefix that differ: with a cache, and everything computed anew each step",
        "the bare model step by step, the prefix as its cache",
        counts(
            {w: wrong(peft_write(prompted, ids, mask, use_cache=w == "cached")[0], P) for w in ("cached", "anew")}, 20
        ),
        counts({"cached": wrong(write(own, ids, mask)[0], 0), "anew": wrong(_continued(ids, anew), 0)}, 20),
    )


def _continued(ids: Tensor, scores: Callable[[Tensor], Tensor]) -> Tensor:
    for _ in range(STEPS):
        ids = torch.cat([ids, scores(ids).argmax(-1, keepdim=True)], 1)
    return ids[:, -STEPS:]


def a18() -> Finding:
    """A window that hides the prompt."""
    tokens = 40
    model = tiny(hf.MistralForCausalLM, "mistral", sliding_window=4)
    (text,) = rows(1, tokens, tokens)
    ids, mask = text[None], torch.ones(1, tokens, dtype=torch.bool)
    tables = random(P, 32), random(P, 32, seed=1)
    with torch.no_grad():
        true = furthest([tuple(model(inputs_embeds=embedded(model, t, text)).logits[0, -1] for t in tables)])
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
        scores = [theirs(model, settings, t)(input_ids=ids, attention_mask=mask.long()).logits[0, -1] for t in tables]
    moved = furthest([(scores[0], scores[1])])
    told = sum("window" in str(w.message) for w in said)
    to = backbone(model)
    hidden = ours(to, tables[0]).out_of_sight(tokens)
    own = []
    for inject in (Embeddings(to.shape), KeyValues(to.shape)):
        pair = []
        for seed in (0, 1):
            one = ours(to, random(P, inject.width, seed=seed), inject)
            with torch.no_grad():
                out = one(one.instance(ids, mask))
                pair.append(out.logits(out.hidden[0, -1]))
        own.append(furthest([tuple(pair)]))
    return Finding(
        "A18",
        f"Mistral, window 4, 2 layers, {tokens} tokens: the last logit's change between two prompts, and is it said",
        f"the bare model ({true:.2g} for a prompt at the input: no library can change that)",
        Side(f"{moved:.2g}, {told} warnings", {"moved": moved, "told": told}, told > 0),
        Side(
            f"at the input {own[0]:.2g}, out_of_sight({tokens}) says {hidden} tokens; as keys and values {own[1]:.2g}",
            {"input": own[0], "out_of_sight": hidden, "keys and values": own[1]},
            own[0] == true and hidden == _blind(model, tables, text) and own[1] > 0,
        ),
    )


@torch.no_grad()
def _blind(model: hf.PreTrainedModel, tables: tuple[Tensor, Tensor], text: Tensor) -> int:
    """Reference for `out_of_sight`: how many of the bare model's scores at the text do not move at all."""
    a, b = (model(inputs_embeds=embedded(model, t, text)).logits[0, P:] for t in tables)
    return int((a == b).all(-1).sum())
