"""Pictures of vectors come with numbers, and the numbers are those of a loop."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from promptuary.projecting import differ, pca, project, separation


def naive(vectors: Tensor, labels: Tensor) -> list[float]:
    """Leave-one-out nearest neighbours, in a loop."""
    shares = []
    for i, v in enumerate(vectors):
        others = [(float((v - w).norm()), int(labels[j])) for j, w in enumerate(vectors) if j != i]
        nearest = min(d for d, _ in others)
        same = [label == int(labels[i]) for d, label in others if d <= nearest + 1e-6]
        shares.append(sum(same) / len(same))
    return shares


@pytest.mark.parametrize("seed", range(4))
def test_separation_is_that_of_a_loop_over_rows(seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (25,), generator=source)
    vectors = torch.randn(25, 6, generator=source) + labels[:, None] * 0.7
    vectors[3], vectors[9] = vectors[4], vectors[4]  # rows that are equal are all nearest
    found, shares = separation(vectors, labels, 4), naive(vectors, labels)
    assert found.accuracy == pytest.approx(sum(shares) / 25)
    for c in range(3):
        own = [s for s, label in zip(shares, labels.tolist(), strict=True) if label == c]
        assert found.by_class[c] == pytest.approx(sum(own) / len(own))
    assert found.by_class[3] is None


def test_separated_classes_are_told_from_the_control_and_noise_is_not() -> None:
    labels = torch.arange(200) % 2
    noise = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    apart, mixed = separation(noise + labels[:, None] * 20.0, labels, 2), separation(noise, labels, 2)
    assert apart.accuracy == 1.0
    assert apart.shuffled == pytest.approx(0.5, abs=0.05)
    assert mixed.accuracy == pytest.approx(mixed.shuffled, abs=0.1)


def test_equal_vectors_separate_nothing_whatever_the_order_of_the_labels() -> None:
    labels = torch.tensor([0] * 15 + [1] * 5)
    found = separation(torch.ones(20, 3), labels, 2)
    assert found.by_class == (pytest.approx(14 / 19), pytest.approx(4 / 19))
    assert found.accuracy == pytest.approx(found.shuffled)


def test_principal_components_are_those_of_scikit_learn() -> None:
    vectors = torch.randn(30, 7, generator=torch.Generator().manual_seed(1)) * torch.arange(1.0, 8.0)
    mine, theirs = pca(vectors), PCA(2).fit(vectors.numpy())
    assert mine.shares == pytest.approx(theirs.explained_variance_ratio_.tolist(), abs=1e-5)
    torch.testing.assert_close(
        mine.points.abs(), torch.from_numpy(theirs.transform(vectors.numpy())).float().abs(), atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(pca(-vectors).points.abs(), mine.points.abs(), atol=1e-4, rtol=1e-4)
    assert all(float(axis[axis.abs().argmax()]) > 0 for axis in mine.points.T)


@pytest.mark.parametrize("shape", [(1, 5), (2, 5), (3, 1), (6, 4)])
@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_few_rows_and_few_numbers_are_drawn_too(shape: tuple[int, int], projection: str) -> None:
    plane = project(torch.randn(*shape), projection)  # type: ignore[arg-type]
    assert plane.points.shape == (shape[0], 2)
    assert plane.points.isfinite().all()


def test_t_sne_keeps_neighbours_and_repeats_itself() -> None:
    labels = torch.arange(40) % 2
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + labels[:, None] * 30.0
    one, two = project(vectors, "tsne"), project(vectors, "tsne")
    assert torch.equal(one.points, two.points)
    assert one.shares is None
    assert separation(one.points, labels, 2).accuracy == 1.0


def test_rows_differ_beyond_rounding_or_not() -> None:
    row = torch.randn(1, 9)
    assert not differ(row.expand(5, -1))
    assert not differ(torch.zeros(3, 4))
    assert not differ(row.repeat(5, 1) * (1 + 1e-7))
    assert differ(torch.cat([row, row, row * 1.1]))
