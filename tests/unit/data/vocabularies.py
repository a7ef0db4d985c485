"""Small tokenizers of every convention, trained here on the library's own samples: nothing is downloaded."""

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from promptuary.backbones.load import SHORT_NAMES
from promptuary.data.source import rows

SIZE = 700
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


@cache
def sentences() -> list[str]:
    return [row.fields["text"] for name in ("intents", "opinions") for row in rows(f"sample:{name}/train")]


@cache
def bert() -> Any:
    """WordPiece in lower case, `[CLS] a [SEP] b [SEP]` with segments."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        sentences(), trainers.WordPieceTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False)
    )
    made.post_processor = _around(made, "[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special[2:4])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@cache
def roberta() -> Any:
    """Byte-level BPE, `<s> a </s></s> b </s>`, a mask that takes the space before it."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    made = _byte_level(special)
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


@cache
def gpt2() -> Any:
    """Byte-level BPE without anything around a text."""
    made = _byte_level(["<|endoftext|>"])
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


@cache
def t5() -> Any:
    """Unigram with a space put before every text, `a </s> b </s>`, no mask."""
    special = ["<pad>", "</s>", "<unk>"]
    made = _unigram(special, "always")
    made.post_processor = _around(made, "$A </s>", "$A </s> $B </s>", ["</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


@cache
def xlm() -> Any:
    """Unigram with a mask: `<s> a </s></s> b </s>`."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made = _unigram(special, "always")
    made.post_processor = _around(made, "<s> $A </s>", "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
    )


@cache
def llama() -> Any:
    """BPE over text whose spaces became underlines, one put before every text, `<s> a <s> b`."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # else words grow together while it learns
    made.train_from_iterator(
        sentences(), trainers.BpeTrainer(vocab_size=SIZE, special_tokens=special, show_progress=False)
    )
    made.pre_tokenizer = None
    made.post_processor = _around(made, "<s> $A", "<s> $A <s> $B", ["<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def minilm() -> Any:
    """The real vocabulary of the bundled model."""
    return AutoTokenizer.from_pretrained(str(SHORT_NAMES["minilm"].path()))


BUNDLED = {"minilm": minilm} if SHORT_NAMES["minilm"].path() else {}
VOCABULARIES: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {"bert": bert, "roberta": roberta, "gpt2": gpt2, "t5": t5, "xlm": xlm, "llama": llama, **BUNDLED}
)
CAUSAL = ("gpt2", "llama")
MASKED = ("bert", "roberta", "xlm", *BUNDLED)


def _byte_level(special: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special, initial_alphabet=ALPHABET, show_progress=False
    )
    made.train_from_iterator(sentences(), trainer)
    return made


def _unigram(special: list[str], scheme: str) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" +", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(sentences(), trainer)
    return made


def _around(made: Tokenizer, single: str, pair: str, special: list[str]) -> processors.TemplateProcessing:
    ids = [(token, made.token_to_id(token)) for token in special]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
