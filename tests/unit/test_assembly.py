from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from promptuary.assembly import prompted, start
from promptuary.data.source import rows
from promptuary.errors import SettingError
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


def test_a_table_of_the_vocabulary_starts_by_name(shelf: Shelf, tmp_path: Path) -> None:
    tuned = open_prompt(shelf.prompt("bert", "prompt-tuning"))
    backbone, examples = tuned.backbone, tuned.wording.encode(rows(str(shelf.train)))
    matrix = torch.randn(backbone.shape.vocabulary, backbone.shape.dim)
    save_file({"table": matrix}, tmp_path / "table.safetensors")

    def table(init: str, **settings: Any) -> torch.Tensor:
        first = start(init, backbone, tuned.wording, examples, settings)
        model = prompted(backbone, "ipt", {"length": LENGTH, **settings}, init=first, seed=0)
        with torch.no_grad():
            made: torch.Tensor = model.generator.inner.table(torch.arange(backbone.shape.vocabulary)[None])[0]
        return made

    assert torch.equal(table("embeddings"), backbone.table)
    assert torch.equal(table("file:" + str(tmp_path / "table.safetensors")), matrix)
    assert not table("zeros").any()
    assert not table("zeros", rank=2).any()
    drawn = table("uniform")
    assert -0.5 <= drawn.min() < -0.49
    assert 0.49 < drawn.max() < 0.5
    assert not torch.equal(table("random"), drawn)
    for init, whole in (("embeddings", backbone.table), ("file:" + str(tmp_path / "table.safetensors"), matrix)):
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        nearest = (left[:, :4] * values[:4]) @ right[:4]
        torch.testing.assert_close(table(init, rank=4), nearest, rtol=0, atol=1e-4)
    with pytest.raises(SettingError, match="not with buckets"):
        table("embeddings", buckets=5)


def test_activations_start_what_the_read_out_hears(shelf: Shelf) -> None:
    tuned = open_prompt(shelf.prompt("t5", "p-tuning-v2"))
    backbone, examples = tuned.backbone, tuned.wording.encode(rows(str(shelf.train)))
    for readout, parts in ((Classifier(2, backbone.shape.output), {"encoder"}), (LanguageModel(), PARTS)):
        init = start("activations", backbone, tuned.wording, examples, {}, readout)
        model = prompted(backbone, "p-tuning-v2", {"length": LENGTH}, init=init, seed=0, readout=readout)
        assert model.generator.width == backbone.shape.key_value_width(frozenset(parts))
