"""Checks of what is read off a model: pooling, labels, rows of several tasks, lengths."""

from collections.abc import Callable

import torch
import transformers as hf
from peft import PromptTuningConfig
from torch import Tensor
from torch.nn import functional as F

from peers.sides import (
    EXACT,
    Finding,
    P,
    Side,
    backbone,
    batch,
    counts,
    embedded,
    furthest,
    like,
    ours,
    padded,
    random,
    rows,
    theirs,
    tiny,
)
from promptuary.readouts import Classifier, Span

CLASSIFIERS = {
    "GPT-2": (hf.GPT2LMHeadModel, hf.GPT2ForSequenceClassification, "gpt2"),
    "Llama": (hf.LlamaForCausalLM, hf.LlamaForSequenceClassification, "llama"),
    "Qwen3": (hf.Qwen3ForCausalLM, hf.Qwen3ForSequenceClassification, "qwen3"),
}


def a02() -> Finding:
    """Classification on a causal model: which state is read."""
    texts = rows(200, 4, 11)
    ids, mask = padded(texts, 12, left=False)
    wrong: dict[str, dict[str, int]] = {"peft": {}, "ours": {}}
    for name, (causal, kind, family) in CLASSIFIERS.items():
        model, table = tiny(causal, family, num_labels=3), random(P, 32)
        judge = like(kind, model)
        judge.score.weight.data.copy_(random(3, 32, seed=1))
        settings = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P)
        own = ours(backbone(model), table)
        readout = Classifier(3, 32, pool="last")
        readout.head.weight.data.copy_(judge.score.weight)
        with torch.no_grad():
            right = torch.cat([judge(inputs_embeds=embedded(judge, table, text)).logits.argmax(1) for text in texts])
            peft = theirs(judge, settings, table)(input_ids=ids, attention_mask=mask).logits.argmax(1)
            said = readout.predict(own(own.instance(ids, mask.bool())), batch(ids, mask)).label
        wrong["peft"][name] = int((peft != right).sum())
        wrong["ours"][name] = int((said != right).sum())
    return Finding(
        "A2",
        "predicted classes changed by right padding to 12 tokens, prompt tuning, a head on a causal model",
        "the bare classification model on prompt and text as one unpadded row",
        counts(wrong["peft"], 200),
        counts(wrong["ours"], 200),
    )


def a03() -> Finding:
    """Extractive question answering: which tokens the loss asks for."""
    model = tiny(hf.BertForMaskedLM, "bert", num_labels=2)
    judge = like(hf.BertForQuestionAnswering, model)
    judge.qa_outputs.weight.data.copy_(random(2, 32, seed=1))
    table = random(P, 32)
    ids = torch.stack(rows(8, 10, 10))
    mask = torch.ones_like(ids)
    spans = torch.stack([torch.arange(8) % 4, torch.arange(8) % 4 + 4], 1)
    with torch.no_grad():
        outs = [judge(inputs_embeds=embedded(judge, table, text)) for text in ids]
        scores = torch.stack([torch.cat([o.start_logits for o in outs]), torch.cat([o.end_logits for o in outs])], 1)
        by_hand = F.cross_entropy(scores.flatten(0, 1), (spans + P).flatten())  # the prompt's columns are scored too
        own_hand = F.cross_entropy(scores[..., P:].flatten(0, 1), spans.flatten())  # only the text can answer
        settings = PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=P)
        prompted = theirs(judge, settings, table)
        start, end = spans.unbind(1)
        peft = prompted(input_ids=ids, attention_mask=mask, start_positions=start, end_positions=end).loss
        own = ours(backbone(model), table)
        readout = Span(32)
        readout.head.weight.data.copy_(judge.qa_outputs.weight)
        many = batch(ids, mask, spans=spans, context=mask.bool())
        loss = readout.loss(own(own.instance(ids, mask.bool())), many)
        unshifted = F.cross_entropy(scores.flatten(0, 1), spans.flatten())
    asked = "the tokens 5 earlier" if abs(float(peft - unshifted)) < EXACT else "other tokens"
    return Finding(
        "A3",
        "span loss on BERT with a prompt",
        "cross-entropy by hand on the bare model's logits, labels moved with the text",
        Side(
            f"{peft:.5f}, right is {by_hand:.5f} (it asks for {asked})",
            {"loss": float(peft), "right": float(by_hand)},
            bool((peft - by_hand).abs() < EXACT),
        ),
        Side(
            f"{loss:.5f}, right is {own_hand:.5f}",
            {"loss": float(loss), "right": float(own_hand)},
            bool((loss - own_hand).abs() < EXACT),
        ),
    )


def a04() -> Finding:
    """Rows of two tasks in one batch."""
    model = tiny(hf.LlamaForCausalLM, "llama")
    ids = torch.stack(rows(8, 6, 6))
    tables = random(P, 32), random(P, 32, seed=1)
    task = torch.arange(8) % 2
    settings = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=P)
    prompted = theirs(model, settings, tables[0])
    prompted.add_adapter("B", settings)
    prompted.prompt_encoder["B"].embedding.weight.data.copy_(tables[1])
    prompted.set_adapter("default")
    to = backbone(model)
    apart = [ours(to, table) for table in tables]

    def off(scores: Tensor) -> int:
        return int(((scores - right).abs().amax(1) > EXACT).sum())

    def takes(call: Callable[[], object]) -> bool:
        try:
            call()
        except (TypeError, ValueError, KeyError):
            return False
        return True

    with torch.no_grad():
        right = torch.stack(
            [model(inputs_embeds=embedded(model, tables[t], i)).logits[0, -1] for t, i in zip(task, ids, strict=True)]
        )
        names = [("default", "B")[t] for t in task]
        peft = prompted(input_ids=ids, adapter_names=names).logits[:, -1]
        peft_typo = takes(lambda: prompted(input_ids=ids, adapter_names=["defualt"] * 8))
        both = [m(m.instance(ids, torch.ones_like(ids, dtype=torch.bool))) for m in apart]
        mixed = torch.stack([both[t].logits(both[t].hidden[row, -1]) for row, t in enumerate(task)])
        x = apart[0].instance(ids, torch.ones_like(ids, dtype=torch.bool))
        own_typo = takes(lambda: apart[0](x, adapter_names=["defualt"] * 8))
    wrong = {"peft": off(peft), "ours": off(mixed)}
    return Finding(
        "A4",
        "rows that get another task's prompt (PEFT: adapter_names; ours: two prompts on one backbone, a pass each); "
        "is a misspelt name accepted",
        "the bare model on each row with its own prompt",
        Side(
            f"{wrong['peft']}/8, accepted: {_yes(peft_typo)}",
            {"rows": wrong["peft"], "accepted": peft_typo},
            not (wrong["peft"] or peft_typo),
        ),
        Side(
            f"{wrong['ours']}/8, accepted: {_yes(own_typo)}",
            {"rows": wrong["ours"], "accepted": own_typo},
            not (wrong["ours"] or own_typo),
        ),
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def a14() -> Finding:
    """Which state BERT's head reads."""
    model, table = tiny(hf.BertForMaskedLM, "bert", num_labels=2), random(P, 32)
    judge = like(hf.BertForSequenceClassification, model)
    (text,) = rows(1, 8, 8)
    ids, mask = text[None], torch.ones(1, 8, dtype=torch.long)
    read: list[Tensor] = []
    prompted = theirs(judge, PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P), table)
    prompted.get_base_model().bert.pooler.dense.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    own = ours(backbone(model), table)
    with torch.no_grad():
        states = judge.bert(inputs_embeds=embedded(judge, table, text)).last_hidden_state[0]
        prompted(input_ids=ids, attention_mask=mask)
        first = own(own.instance(ids, mask.bool())).hidden[0, 0]

    def side(got: Tensor) -> Side:
        cls, soft = furthest([(got, states[P])]), furthest([(got, states[0])])
        return Side(f"{cls:.2g} from [CLS], {soft:.2g} from soft token 0", {"cls": cls, "soft": soft}, cls < EXACT)

    return Finding(
        "A14",
        "the state a classification head on BERT reads under an input prompt: its distance",
        "the bare model's states on prompt and text",
        side(read[0][0]),
        side(first),
    )


def a17() -> Finding:
    """The length of what comes out."""
    (text,) = rows(1, 6, 6)
    ids, mask = text[None], torch.ones(1, 6, dtype=torch.long)
    lengths: dict[str, dict[str, int]] = {"peft": {}, "ours": {}}
    for name, task, kind, model in (
        ("causal", "CAUSAL_LM", hf.LlamaForCausalLM, tiny(hf.LlamaForCausalLM, "llama")),
        ("tagging", "TOKEN_CLS", hf.BertForTokenClassification, tiny(hf.BertForMaskedLM, "bert", num_labels=3)),
    ):
        table = random(P, 32)
        prompted = theirs(like(kind, model), PromptTuningConfig(task_type=task, num_virtual_tokens=P), table)
        own = ours(backbone(model), table)
        with torch.no_grad():
            lengths["peft"][name] = prompted(input_ids=ids, attention_mask=mask).logits.shape[1]
            lengths["ours"][name] = own(own.instance(ids, mask.bool())).hidden.shape[1]

    def side(of: dict[str, int]) -> Side:
        return Side(
            ", ".join(f"{k} {v}" for k, v in of.items()), {k: float(v) for k, v in of.items()}, set(of.values()) == {6}
        )

    return Finding(
        "A17",
        "columns of output for 6 tokens of input",
        "6: what labels of the same input have",
        *map(side, lengths.values()),
    )
