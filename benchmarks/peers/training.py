"""Checks of training: checkpointing, resuming, parameters without gradient, where the numbers start."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers as hf
from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional as F

from peers.sides import (
    EXACT,
    Finding,
    P,
    Side,
    backbone,
    batch,
    embedded,
    furthest,
    like,
    ours,
    random,
    rows,
    theirs,
    tiny,
)
from promptuary.checkpoint import read_manifest, restore, save_prompt
from promptuary.data.batch import Batch
from promptuary.initial import from_words, matched
from promptuary.injections import KeyValues
from promptuary.methods import method
from promptuary.model import SoftPrompted
from promptuary.readouts import Classifier
from promptuary.values import Targets


def a05() -> Finding:
    """Prefix tuning of an encoder with gradient checkpointing."""
    texts = torch.stack(rows(8, 8, 8))
    labels = torch.arange(8) % 2
    moved: dict[str, dict[str, float]] = {"peft": {}, "ours": {}}
    model = tiny(hf.BertForMaskedLM, "bert", num_labels=2)
    judge = like(hf.BertForSequenceClassification, model)
    judge.classifier.weight.data.copy_(random(2, 32, seed=1))
    data = [{"input_ids": i, "labels": y} for i, y in zip(texts, labels, strict=True)]
    for on in (False, True):
        key = "with checkpointing" if on else "without"
        prompted = theirs(judge, PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=P))
        before = prompted.prompt_encoder["default"].embedding.weight.detach().clone()
        with tempfile.TemporaryDirectory() as folder:
            _trainer(prompted, folder, data, max_steps=3, gradient_checkpointing=on).train()
        moved["peft"][key] = furthest([(prompted.prompt_encoder["default"].embedding.weight.detach(), before)])
        to = backbone(model)
        if on:
            to.checkpoint_activations(True)
        own = ours(to, before, KeyValues(to.shape)).train()
        to.train(True)
        _steps(own, Classifier(2, 32), batch(texts, torch.ones_like(texts), labels=labels), 3)
        moved["ours"][key] = furthest([(own.generator.table.detach(), before)])
    return Finding(
        "A5",
        "largest change of BERT's prefix in 3 training steps (PEFT in the Trainer of transformers)",
        "the same training without checkpointing, which must change it as much",
        *(
            Side(
                ", ".join(f"{k} {v:.2g}" for k, v in m.items()),
                m,
                abs(m["without"] - m["with checkpointing"]) < 0.01 * m["without"],
            )
            for m in (moved["peft"], moved["ours"])
        ),
    )


def _trainer(model: nn.Module, folder: str, data: list[dict[str, Tensor]], **options: object) -> hf.Trainer:
    arguments = hf.TrainingArguments(
        folder,
        report_to=[],
        disable_tqdm=True,
        learning_rate=1e-2,
        per_device_train_batch_size=8,
        use_cpu=True,
        seed=0,
        **options,
    )
    trainer = hf.Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    trainer.remove_callback(hf.PrinterCallback)
    return trainer


def _steps(model: SoftPrompted, readout: nn.Module, many: Batch, number: int, targets: Targets | None = None) -> None:
    optimizer = torch.optim.AdamW([*model.parameters(), *readout.parameters()], lr=1e-2)
    for _ in range(number):
        out = model(model.instance(many.ids, many.mask), targets)
        optimizer.zero_grad()
        readout.loss(out, many).backward()
        optimizer.step()


class _Words(nn.Module):
    """The mean loss of the rows' own next tokens."""

    def loss(self, out: object, many: Batch) -> Tensor:
        scores = out.logits(out.hidden[:, :-1])
        return F.cross_entropy(scores.flatten(0, 1), many.ids[:, 1:].flatten())


def a07() -> Finding:
    """P-tuning: the best checkpoint, loaded back."""
    model = tiny(hf.GPT2LMHeadModel, "gpt2")
    ids = torch.stack(rows(8, 8, 8))
    data = [{"input_ids": i, "labels": i} for i in ids]

    def bare_loss(table: Tensor, *, given: int) -> float:
        """Of the rows' tokens behind the `given` first ones. PEFT's prompt also predicts the first; ours reads on."""
        with torch.no_grad():
            scores = torch.cat(
                [model(inputs_embeds=embedded(model, table, i)).logits[:, P - 1 + given : -1] for i in ids]
            )
        return float(F.cross_entropy(scores.flatten(0, 1), ids[:, given:].flatten()))

    settings = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=P, encoder_hidden_size=32)
    prompted = theirs(model, settings)
    with tempfile.TemporaryDirectory() as folder:
        every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
        best_last = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
        trainer = _trainer(prompted, folder, data, max_steps=3, **every, **best_last)
        trainer.train()
        after = float(trainer.evaluate()["eval_loss"])
        saved = load_file(Path(trainer.state.best_model_checkpoint) / "adapter_model.safetensors")
        best = bare_loss(saved["prompt_embeddings"], given=0)
    many, words = batch(ids, torch.ones_like(ids)), _Words()
    to = backbone(model)
    own = SoftPrompted(to, *method("p-tuning").parts(to.shape, length=P))
    _steps(own, words, many, 3)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        place = Path(folder)
        facts = {"method": "p-tuning", "settings": {"length": P}, "seed": 0, "backbone": to.name}
        facts |= {"fingerprint": to.fingerprint(), "family": to.shape.family, "dim": to.shape.dim, "run": {}}
        save_prompt(place, facts, own.generator, own.injection, nn.Identity())
        right = bare_loss(own.generator.fixed().values[0], given=1)
        fresh = method("p-tuning").parts(to.shape, length=P)
        again = SoftPrompted(to, restore(place, read_manifest(place), *fresh, nn.Identity(), trainable=True), fresh[1])
        loss = float(words.loss(again(again.instance(many.ids, many.mask)), many))
    return Finding(
        "A7",
        "loss of P-tuning's best checkpoint after it was loaded to go on training",
        "the bare model's loss with the prompt that was saved",
        Side(f"{after:.5f}, right is {best:.5f}", {"loss": after, "right": best}, abs(after - best) < EXACT),
        Side(f"{loss:.5f}, right is {right:.5f}", {"loss": loss, "right": right}, abs(loss - right) < EXACT),
    )


def a09() -> Finding:
    """Parameters that no gradient reaches."""
    text, answer = rows(2, 6, 6)
    found: dict[str, dict[str, int]] = {"peft": {}, "ours": {}}
    for name, kind, family in (
        ("T5", hf.T5ForConditionalGeneration, "t5"),
        ("BART", hf.BartForConditionalGeneration, "bart"),
    ):
        model = tiny(kind, family)
        prompted = theirs(model, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=P))
        prompted(input_ids=text[None], attention_mask=torch.ones(1, 6), labels=answer[None]).loss.backward()
        own = ours(backbone(model), random(P, 32))
        targets = Targets(answer[None, None], torch.ones(1, 1, 6, dtype=torch.bool))
        out = own(own.instance(text[None], torch.ones(1, 6, dtype=torch.bool)), targets)
        F.cross_entropy(out.logits(out.targets)[0, 0], answer).backward()
        for side, module in (("peft", prompted.prompt_encoder), ("ours", own)):
            found[side][name] = _dead(module.parameters())
            found[side][f"{name} numbers"] = sum(p.numel() for p in module.parameters())

    def side(of: dict[str, int]) -> Side:
        shown = ", ".join(f"{n} {of[n]} rows dead of {of[f'{n} numbers'] // 32}" for n in ("T5", "BART"))
        right = all(of[n] == 0 and of[f"{n} numbers"] == P * 32 for n in ("T5", "BART"))
        return Side(shown, {k: float(v) for k, v in of.items()}, right)

    return Finding(
        "A9",
        f"prompt tuning with {P} soft tokens on seq2seq: rows that get no gradient",
        f"{P} rows of width 32, all of them with gradient",
        side(found["peft"]),
        side(found["ours"]),
    )


def _dead(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.shape[0] if p.grad is None else int((p.grad.abs().sum(1) == 0).sum()) for p in parameters)


def a10() -> Finding:
    """Where the numbers start."""
    model = tiny(hf.GPT2LMHeadModel, "gpt2", scale=0.02)
    scale = float(model.get_input_embeddings().weight.std())
    words = "classify the sentiment"
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = _tokenizer(words)
        tokenizer.save_pretrained(folder)
        random_ = theirs(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=100))
        settings = PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=8, prompt_tuning_init="TEXT", prompt_tuning_init_text=words,
            tokenizer_name_or_path=folder,
        )  # fmt: skip
        text = theirs(model, settings)
    to = backbone(model)
    plain = tokenizer(words, add_special_tokens=False)["input_ids"]
    source = torch.Generator().manual_seed(0)
    started = from_words(to.embeddings, plain, matched(to.shape.deviation))(8, 32, source)
    generator, _ = method("prompt-tuning").parts(to.shape, length=100)
    sides = []
    for spread, table in (
        (random_.prompt_encoder["default"].embedding.weight.std(), text.prompt_encoder["default"].embedding.weight),
        (generator.table.std(), started),
    ):
        same = (table.detach()[:, None] == to.table).all(2)  # [8, vocabulary]
        ids = torch.where(same.any(1), same.int().argmax(1), -1).tolist()
        special = sum(i in (1, 2) for i in ids)
        repeated = sum(i >= 0 and i not in (1, 2) and i in ids[:n] for n, i in enumerate(ids))
        ratio = float(spread.detach()) / scale
        sides.append(
            Side(
                f"{ratio:.2g} times; {special} BOS/EOS and {repeated} repeated of 8",
                {"ratio": ratio, "special": special, "repeated": repeated},
                0.9 < ratio < 1.1 and special == repeated == 0,
            )
        )
    return Finding(
        "A10",
        f"random start: deviation against the vocabulary's; start from the text {words!r}: rows that are not its words",
        "the vocabulary's own deviation, the text's own tokens",
        *sides,
    )


def _tokenizer(words: str) -> hf.PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[BOS]", "[EOS]", "[UNK]", *words.split()])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing("[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="[BOS]", eos_token="[EOS]", pad_token="[PAD]", unk_token="[UNK]"
    )
