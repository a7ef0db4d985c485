import pytest
import torch

from promptuary.assembly import prompted, start
from promptuary.data.source import rows
from promptuary.readouts import Classifier, LanguageModel
from promptuary.tuned import open_prompt
from promptuary.values import PARTS
from tests.saved import Shelf

LENGTH = 3


@pytest.mark.parametrize("init", ["vocabulary", "labels", "words:I like it"])
def test_a_start_looks_up_the_embeddings_it_takes_and_no_others(shelf: Shelf, init: str) -> None:
    tuned = open_prompt(shelf.prompt("bert", "prompt-tuning"))
    backbone, examples = tuned.backbone, tuned.wording.encode(rows(str(shelf.train)))
    seen: list[int] = []
    backbone.model.get_input_embeddings().register_forward_pre_hook(lambda _, given: seen.extend(given[0].tolist()[0]))
    make = start(init, backbone, tuned.wording, examples, {})
    assert make is not None
    assert make(LENGTH, backbone.shape.dim, torch.Generator().manual_seed(0)).shape == (LENGTH, backbone.shape.dim)
    assert LENGTH <= len(seen) <= 2 * LENGTH  # a label may have two tokens


def test_activations_start_what_the_read_out_hears(shelf: Shelf) -> None:
    tuned = open_prompt(shelf.prompt("t5", "p-tuning-v2"))
    backbone, examples = tuned.backbone, tuned.wording.encode(rows(str(shelf.train)))
    for readout, parts in ((Classifier(2, backbone.shape.output), {"encoder"}), (LanguageModel(), PARTS)):
        init = start("activations", backbone, tuned.wording, examples, {}, readout)
        model = prompted(backbone, "p-tuning-v2", {"length": LENGTH}, init=init, seed=0, readout=readout)
        assert model.generator.width == backbone.shape.key_value_width(frozenset(parts))
