from pathlib import Path

import pytest
import torch
from torch import nn

from promptuary.backbones import load as loading
from promptuary.backbones.attachment import Attachment, Promise
from promptuary.backbones.identity import same_model
from promptuary.backbones.load import available, device_of, load, wrap
from promptuary.backbones.padding import flush_right
from promptuary.errors import BackboneError
from promptuary.placements import bare
from promptuary.values import Call, Instance, Layout
from tests.answers import gap
from tests.backbones import CAUSAL, ENCODER_DECODERS, ENCODERS, FAMILIES, HOOKED, VOCABULARY, backbone, fresh
from tests.backbones import bare as oracle
from tests.strategies import pad, ragged


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_says_what_the_model_is(family: str) -> None:
    b = backbone(family)
    s, bert_like = b.shape, oracle(family).get_input_embeddings().weight
    assert (s.dim, s.vocabulary) == (bert_like.shape[1], VOCABULARY)
    assert (s.hidden, s.layers) == (32, 3 if family == "modernbert" else 2)
    assert s.dim == (16 if family in ("albert", "electra", "opt") else 32)
    assert s.output == (16 if family == "opt" else 32)
    assert (s.encodes, s.decodes) == (family not in CAUSAL, family not in ENCODERS)
    assert bool(s.attention) == (family in HOOKED)
    assert abs(s.deviation - float(b.table.std())) < 1e-3
    assert b.has_head
    assert (b.dtype, b.device.type) == (torch.float32, "cpu")
    assert not b.model.training


HEADS = {"llama": 2, "qwen3": 2, "mistral": 2, "gemma2": 2, "gemma3": 2}
SIZE = {"qwen3": 16, "t5": 6, "mt5": 6}
WINDOWS = {"mistral": [4, 4], "gemma2": [6, None], "gemma3": [6, None]}


@pytest.mark.parametrize("family", HOOKED)
def test_attention_is_measured_on_real_keys(family: str) -> None:
    attention = backbone(family).shape.attention
    assert {(a.heads, a.key, a.value) for a in attention} == {(HEADS.get(family, 4), *[SIZE.get(family, 8)] * 2)}
    parts = [a.part for a in attention]
    if family in ENCODER_DECODERS:
        assert parts == ["encoder", "encoder", "decoder", "cross", "decoder", "cross"]
    else:
        assert set(parts) == {"encoder" if family in ENCODERS else "decoder"}
    if family in CAUSAL:
        assert [a.window for a in attention] == WINDOWS.get(family, [None, None])


def test_modernbert_tells_its_local_layers_from_its_global_ones() -> None:
    windows = [a.window for a in backbone("modernbert").shape.attention]
    assert windows[0] is None
    assert windows[2] is None
    assert windows[1] is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_are_what_the_first_layer_sees_and_zero_at_marks(family: str) -> None:
    b = backbone(family)
    found = b.embed(torch.tensor([[5, -1, 7, -9]]))
    assert not found[0, [1, 3]].any()
    expected = oracle(family).get_input_embeddings()(torch.tensor([5, 7]))  # scaled inside, where the family scales
    assert torch.equal(found[0, [0, 2]], expected)
    assert torch.equal(b.table[[5, 7]], expected.float())
    assert b.table.shape == (VOCABULARY, b.shape.dim)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_scores_of_any_leading_shape(family: str) -> None:
    b = backbone(family)
    hidden = torch.randn(2, 3, 4, b.shape.output)
    scores = b.logits(hidden)
    assert scores.shape == (2, 3, 4, VOCABULARY)
    assert gap(b.logits(hidden[1, 2, 3]), scores[1, 2, 3]) <= 1e-5
    assert b.logits(hidden[:0]).shape == (0, 3, 4, VOCABULARY)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_frozen_and_no_module_of_anything(family: str) -> None:
    b = wrap(fresh(family).requires_grad_(True).train(), family)
    assert not isinstance(b, nn.Module)
    assert not any(p.requires_grad for p in b.model.parameters())
    assert not any(module.training for module in b.model.modules())


def test_the_digest_sees_every_byte_and_the_fingerprint_survives_precision() -> None:
    one, other = wrap(fresh("bert"), "one"), wrap(fresh("bert"), "other")
    assert one.digest() == other.digest()
    assert one.fingerprint() == other.fingerprint()
    halved = wrap(fresh("bert", dtype=torch.bfloat16), "half")
    assert same_model(halved.fingerprint(), one.fingerprint())
    assert same_model(wrap(fresh("bert", dtype=torch.float16), "half").fingerprint(), one.fingerprint())
    assert halved.digest() != one.digest()
    next(other.model.parameters()).data[0] += 1.0
    assert other.digest() != one.digest()
    assert not same_model(backbone("roberta").fingerprint(), one.fingerprint())
    assert not same_model(backbone("bert", num_hidden_layers=1).fingerprint(), one.fingerprint())


def test_a_row_turned_to_the_right_is_the_same_row() -> None:
    batch = pad(ragged(5, 2, 3), "between", extra=2)
    x = Instance(batch.ids, batch.mask, torch.randn(*batch.ids.shape, 3), batch.types, batch.ids[:, 0])
    left: Layout = bare(x)
    right = flush_right(left)
    for row, length in enumerate((5, 2, 3)):
        assert right.mask[row].tolist() == [False] * (7 - length) + [True] * length
        assert torch.equal(right.embeds[row, 7 - length :], left.embeds[row, :length])
        assert torch.equal(right.types[row, 7 - length :], left.types[row, :length])
        columns = right.tokens[row, batch.columns[row]]
        assert torch.equal(right.embeds[row, columns], x.embeds[row, batch.columns[row]])


def test_a_module_that_serves_several_layers_is_counted_round() -> None:
    promise, shared, single = Promise(Call(_layout())), nn.Linear(1, 1), nn.Linear(1, 1)
    assert [promise.visit(shared, 3) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [promise.visit(single, 1) for _ in range(3)] == [0, 0, 0]


def _layout() -> Layout:
    ids = torch.zeros(1, 1, dtype=torch.long)
    return bare(Instance(ids, ids == 0, torch.zeros(1, 1, 1), ids, ids[:, 0]))


def test_albert_passes_its_one_layer_several_times() -> None:
    attachment: Attachment = backbone("albert").attachment
    ((layer, visits),) = attachment.layers.items()
    assert [v.layer for v in visits] == [0, 1]
    assert len({m for v in visits for m in v.attention}) == 1
    assert sorted(i for v in visits for i in v.attention.values()) == [0, 1]
    assert isinstance(layer, nn.Module)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@torch.no_grad()
def test_a_saved_model_loads_as_the_same_backbone(family: str, tmp_path: Path) -> None:
    fresh(family).save_pretrained(tmp_path)
    loaded = load(str(tmp_path))
    assert loaded.fingerprint() == backbone(family).fingerprint()
    assert loaded.shape == backbone(family).shape
    assert loaded.has_head
    halved = load(str(tmp_path), dtype=torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    assert same_model(halved.fingerprint(), loaded.fingerprint())


@torch.no_grad()
def test_a_loaded_model_drops_nothing_unless_asked_to(tmp_path: Path) -> None:
    model = fresh("bert")
    for part in (model.config, *(m for m in model.modules() if isinstance(m, nn.Dropout))):
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "p"):
            if hasattr(part, key):
                setattr(part, key, 0.5)
    model.save_pretrained(tmp_path)
    for dropout in (False, True):
        b = load(str(tmp_path), dropout=dropout)
        b.train(True)
        ids = torch.arange(5, 25)[None]
        one, other = (b.model(input_ids=ids).logits for _ in range(2))
        assert torch.equal(one, other) is not dropout


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_a_folder_without_a_model_is_refused(name: str) -> None:
    with pytest.raises(BackboneError, match=r"no config\.json"):
        load(name)


def test_a_name_that_cannot_be_fetched_says_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("promptuary.backbones.load._hub_answers", lambda: False)
    with pytest.raises(BackboneError, match="Available without a network"):
        load("nobody/nothing-at-all")
    assert all(isinstance(k, str) and v for k, v in available().items())
    with pytest.raises(BackboneError, match="Did you mean 'minilm'"):
        load("minlm")


def test_random_weights_are_the_same_model_untrained(tmp_path: Path) -> None:
    fresh("bert").save_pretrained(tmp_path)
    torch.manual_seed(5)
    drawn, trained = load(f"random:{tmp_path}"), load(str(tmp_path))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))  # nobody else's draws move
    assert drawn.name == f"random:{tmp_path}"
    mine, theirs = (dict(b.model.named_parameters()) for b in (drawn, trained))
    assert {k: p.shape for k, p in mine.items()} == {k: p.shape for k, p in theirs.items()}
    matrices = [k for k, p in mine.items() if p.ndim == 2]
    assert not any(torch.equal(mine[k], theirs[k]) for k in matrices)
    torch.manual_seed(6)
    again = load(f"random:{tmp_path}", dtype=torch.bfloat16)
    assert all(torch.equal(mine[k].bfloat16(), p) for k, p in again.model.named_parameters())
    assert again.dtype == torch.bfloat16


def test_a_model_of_the_ladder_is_looked_for_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PROMPTUARY_MODELS", raising=False)
    made_up = {**loading.SHORT_NAMES, "ladder-9m": loading._ladder("ladder-9m", "made up")}
    monkeypatch.setattr(loading, "SHORT_NAMES", made_up)
    with pytest.raises(BackboneError, match=r"export PROMPTUARY_MODELS=<the folder that holds ladder-9m>"):
        load("ladder-9m")
    assert "ladder-9m" not in available()
    fresh("t5").save_pretrained(tmp_path / "ladder-9m")
    monkeypatch.setenv("PROMPTUARY_MODELS", str(tmp_path))
    assert load("ladder-9m").name == "ladder-9m"
    assert available()["ladder-9m"] == "made up"


def test_every_process_of_several_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_of("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_of("auto") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of("auto") == torch.device("cuda:1")
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BackboneError, match="Process 2 has no GPU of its own: this machine has 2"):
        device_of("auto")
