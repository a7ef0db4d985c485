import pytest
import torch

from promptuary.assembly import start
from promptuary.data.source import rows
from promptuary.tuned import open_prompt
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
