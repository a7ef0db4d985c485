"""The table of what works: every method on every family, by running the core laws on each.

`python tests/matrix.py` prints Markdown; `python tests/matrix.py docs/support.md` writes it there.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers

from promptuary.methods import METHODS
from tests.answers import prompted
from tests.backbones import FAMILIES, backbone
from tests.laws.checks import CHECKS, PROMPTED, REFUSED

TITLES = {
    "bert": "BERT",
    "roberta": "RoBERTa",
    "distilbert": "DistilBERT",
    "albert": "ALBERT",
    "electra": "ELECTRA",
    "modernbert": "ModernBERT",
    "deberta": "DeBERTa-v2",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "qwen3": "Qwen3",
    "mistral": "Mistral",
    "gemma2": "Gemma 2",
    "gemma3": "Gemma 3",
    "neox": "GPT-NeoX",
    "opt": "OPT",
    "t5": "T5",
    "mt5": "mT5",
    "bart": "BART",
}


def verdict(family: str, method: str) -> str:
    """`yes`, or the first sentence of what went wrong."""
    if (family, method) in REFUSED:
        return sentence(REFUSED[family, method])
    for name, check in CHECKS.items():
        if (family, method) not in PROMPTED and name != "alone":
            continue  # a control without a prompt has nothing to be heard or taught
        try:
            check(prompted(family, method))
        except Exception as error:
            return f"{name}: {sentence(str(error) or type(error).__name__)}"
    return "yes"


def sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".").replace("\n", " ").replace("|", "\\|")


def recomputes(family: str) -> str:
    return "yes" if backbone(family).model.supports_gradient_checkpointing else "no"


def table() -> str:
    """The table, with its numbered remarks below."""
    torch.manual_seed(0)
    remarks: list[str] = []

    def cell(family: str, method: str) -> str:
        said = verdict(family, method)
        if said == "yes":
            return said
        if said not in remarks:
            remarks.append(said)
        return f"no [{remarks.index(said) + 1}]"

    head = ["family", *METHODS, "recomputed activations"]
    rows = [
        [TITLES.get(family, family), *(cell(family, method) for method in METHODS), recomputes(family)]
        for family in FAMILIES
    ]
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    notes = [f"[{i}] {remark}." for i, remark in enumerate(remarks, 1)]
    return "\n".join([*lines, "", *notes])


def page() -> str:
    return f"""# What works on which model

Every "yes" was found by running three laws on a small random model of the family: the output moves when the prompt
moves; a row alone is answered as in any batch, padded left, right or in between; every trained tensor gets a gradient
and the backbone none. Made by `python tests/matrix.py docs/support.md`, torch {torch.__version__.split("+")[0]},
transformers {transformers.__version__}.

{table()}

Other masked-language, causal and text-to-text models of transformers are driven through the same three adapters. A
model that would be silently wrong is refused when it is loaded: one whose attention ignores soft keys and values, one
that reads a row otherwise beside a longer one (MobileBERT, ConvBERT, Funnel), one that does more with its embeddings
than to scale them (ESM with `token_dropout`). Recurrent models (Mamba, RWKV) write with `generate`, some of them one
row at a time, and not in the server.
"""


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(page(), encoding="utf-8")
    else:
        print(table())
