"""`arrange` against Python lists: walk the real tokens, drop each present soft token into its gap."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from promptuary.placements import arrange
from promptuary.values import Instance, Prompt
from tests.strategies import seeds


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[Instance, Prompt, torch.Tensor]:
    batch, tokens, prompt = draw(st.integers(1, 4)), draw(st.integers(1, 7)), draw(st.integers(0, 5))
    source = torch.Generator().manual_seed(draw(seeds))
    mask = torch.rand(batch, tokens, generator=source) < 0.7
    keep = (torch.rand(batch, prompt, generator=source) < 0.7).float()
    gaps = torch.stack([torch.randint(0, int(n) + 1, (prompt,), generator=source) for n in mask.sum(1)])
    values = torch.arange(batch * prompt, dtype=torch.float32).reshape(batch, prompt, 1) + 1000
    embeds = torch.arange(batch * tokens, dtype=torch.float32).reshape(batch, tokens, 1)
    types = torch.randint(1, 4, (batch, tokens), generator=source)
    ids = torch.zeros(batch, tokens, dtype=torch.long)
    return Instance(ids, mask, embeds, types, ids[:, 0]), Prompt(values * keep[..., None], keep), gaps


@given(laid_out())
def test_arranging_is_dropping_soft_tokens_into_gaps(given_: tuple[Instance, Prompt, torch.Tensor]) -> None:
    x, p, gaps = given_
    found = arrange(p, x, gaps)
    tokens, prompt = x.ids.shape[1], p.keep.shape[1]
    assert found.embeds.shape == (x.ids.shape[0], tokens + prompt, 1)
    for b in range(x.ids.shape[0]):
        real = [t for t in range(tokens) if x.mask[b, t]]
        expected: list[tuple[str, int]] = []
        for g in range(len(real) + 1):
            expected += [("soft", i) for i in range(prompt) if gaps[b, i] == g and p.keep[b, i]]
            expected += [("own", t) for t in real[g : g + 1]]
        n = len(expected)
        assert found.mask[b].tolist() == [True] * n + [False] * (tokens + prompt - n)
        for column, (kind, i) in enumerate(expected):
            assert found.embeds[b, column, 0] == (p.values if kind == "soft" else x.embeds)[b, i, 0]
            assert found.types[b, column] == (0 if kind == "soft" else x.types[b, i])
            assert (found.prompts if kind == "soft" else found.tokens)[b, i] == column
        # The index map is one to one, and what is not there points at padding.
        assert sorted([*found.prompts[b].tolist(), *found.tokens[b].tolist()]) == list(range(tokens + prompt))
        missing = [found.prompts[b, i] for i in range(prompt) if not p.keep[b, i]]
        missing += [found.tokens[b, t] for t in range(tokens) if not x.mask[b, t]]
        assert not any(found.mask[b, column] for column in missing)
