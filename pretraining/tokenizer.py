"""The tokenizer of the ladder: a unigram model of 16,384 tokens, trained on the core of the corpus.

    python pretraining/tokenizer.py CORPUS        # writes pretraining/tokenizer/{text-to-text,causal}

SentencePiece trains it (Kudo 2018: unigram language model, byte fallback for everything unseen, digits one by one) and
`tokenizers` runs it, so that every user of transformers can load it without SentencePiece. Ids follow T5: padding 0,
end 1, unknown 2, sentinel `<extra_id_i>` at 16,383 - i. A line break is a token of its own. The two folders differ in
one point: before an encoder a text ends with the end token, before a decoder alone nothing is added.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
from corpus import CORE, paragraphs
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SIZE, SENTINELS = 16_384, 100
PAD, END, UNKNOWN, BREAK = "<pad>", "</s>", "<unk>", "\n"
PLAIN = {"[“”„]": '"', "[‘’]": "'", "[–—]": "-", r"\s+": " "}  # as the corpus has them
FOLDER = Path(__file__).parent / "tokenizer"


def sentinels() -> list[str]:
    """The sentinels in the order of their ids: the first one in a text has the highest id, as in T5."""
    return [f"<extra_id_{i}>" for i in reversed(range(SENTINELS))]


def pieces(texts: Iterator[str], threads: int) -> list[tuple[str, float]]:
    """Train SentencePiece on texts: (piece, log probability) for all but the line break and the sentinels."""
    with tempfile.TemporaryDirectory() as place:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=texts, model_prefix=f"{place}/unigram", model_type="unigram",
            vocab_size=SIZE - SENTINELS - 1, character_coverage=0.9999, byte_fallback=True, split_digits=True,
            normalization_rule_name="nfkc", max_sentence_length=20_000, num_threads=threads,
            input_sentence_size=600_000, shuffle_input_sentence=True, minloglevel=1,
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece=PAD, eos_piece=END, unk_piece=UNKNOWN,
        )  # fmt: skip
        trained = sentencepiece.SentencePieceProcessor(model_file=f"{place}/unigram.model")
        return [(trained.id_to_piece(i), round(trained.get_score(i), 4)) for i in range(trained.get_piece_size())]


def assemble(vocabulary: list[tuple[str, float]], ends: bool) -> PreTrainedTokenizerFast:
    """A fast tokenizer over the pieces; `ends` says whether texts get the end token."""
    whole = [*vocabulary, (BREAK, 0.0), *((name, 0.0) for name in sentinels())]
    fast = Tokenizer(models.Unigram(whole, unk_id=2, byte_fallback=True))
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), *(normalizers.Replace(Regex(typed), plain) for typed, plain in PLAIN.items())]
    )
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fast.add_special_tokens([PAD, END, UNKNOWN, *sentinels()])
    # Texts are cut at the break before anything else, so that the next line starts with a word of its own.
    fast.add_tokens([AddedToken(BREAK, lstrip=True, rstrip=True, normalized=False)])
    if ends:
        fast.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token=PAD, eos_token=END, unk_token=UNKNOWN,
        extra_special_tokens=list(reversed(sentinels())), model_max_length=512,
        padding_side="right" if ends else "left", clean_up_tokenization_spaces=False,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Train the ladder's tokenizer.")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args(arguments)
    texts = itertools.chain.from_iterable(paragraphs(chosen.corpus / name) for name in CORE)
    vocabulary = pieces(texts, chosen.threads)
    for name, ends in (("text-to-text", True), ("causal", False)):
        assemble(vocabulary, ends).save_pretrained(FOLDER / name)


if __name__ == "__main__":
    main(sys.argv[1:])
