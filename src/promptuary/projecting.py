"""Vectors of rows as points in a plane, and in numbers what such a picture is worth.

A picture of a thousand points in two dimensions shows clusters to whoever looks for them. So `separation` says, in all
dimensions, how often a row's nearest neighbour is of its class, and how often it would be if the classes were dealt out
at random. What remains is to compare with the same for the plain mean of the input's embeddings (`Inspected.inputs`).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

Projection = Literal["pca", "tsne"]


@dataclass(frozen=True, eq=False)
class Plane:
    """Points in a plane; `shares` of the vectors' variance that its axes have, for projections that have such."""

    points: Float[Tensor, "rows 2"]
    shares: tuple[float, float] | None = None


@dataclass(frozen=True)
class Separation:
    """How often a row's nearest neighbour (the row itself left out) is of its class, 0 to 1.

    Arguments:
        accuracy: over all rows; where several are nearest, the share of them.
        by_class: the same over the rows of each class, in their order; `None` for one without rows.
        shuffled: the control: the mean accuracy over labels that were dealt out again at random.
    """

    accuracy: float
    by_class: tuple[float | None, ...]
    shuffled: float


def project(vectors: Float[Tensor, "rows width"], projection: Projection) -> Plane:
    """The vectors in a plane: by their two principal components, or by t-SNE."""
    return pca(vectors) if projection == "pca" else tsne(vectors)


def pca(vectors: Float[Tensor, "rows width"]) -> Plane:
    """The two principal components; the largest number of each axis is positive, so that a sign is no accident."""
    centred = (vectors - vectors.mean(0)).double()
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    points = torch.zeros(len(vectors), 2, dtype=torch.double)
    points[:, : min(2, len(sizes))] = (left * sizes)[:, :2]
    furthest = points.gather(0, rearrange(points.abs().argmax(0), "a -> 1 a"))
    total = float(sizes.square().sum())
    first, second = [*sizes.square().tolist(), 0.0][:2] if total else (0.0, 0.0)
    return Plane((points * furthest.sign()).float(), (first / max(total, 1e-30), second / max(total, 1e-30)))


def tsne(vectors: Float[Tensor, "rows width"], *, seed: int = 0) -> Plane:
    """t-SNE (van der Maaten and Hinton 2008) with perplexity 30, or a third of the rows where these are few.

    Distances between its clusters mean nothing. Fewer than four rows have no neighbourhoods: they are drawn by `pca`.
    """
    from sklearn.manifold import TSNE

    if len(vectors) < 4:
        return Plane(pca(vectors).points)
    drawn = TSNE(2, perplexity=min(30.0, (len(vectors) - 1) / 3), init="random", random_state=seed)
    return Plane(torch.from_numpy(drawn.fit_transform(vectors.numpy())).float())


def separation(
    vectors: Float[Tensor, "rows width"],
    labels: Int[Tensor, " rows"],
    classes: int,
    *,
    draws: int = 20,
    seed: int = 0,
) -> Separation:
    """Leave-one-out accuracy of the nearest neighbour by Euclidean distance, with its control.

    Arguments:
        labels: the class of each row, from 0.
        draws: how many times the labels are shuffled for the control; seed: of these.
    """
    nearest = _nearest(vectors)
    found = _agreement(nearest, labels)
    source = torch.Generator().manual_seed(seed)
    shuffled = [_agreement(nearest, labels[torch.randperm(len(labels), generator=source)]) for _ in range(draws)]
    own = [found[labels == c] for c in range(classes)]
    return Separation(
        float(found.mean()),
        tuple(float(rows.mean()) if len(rows) else None for rows in own),
        float(torch.stack(shuffled).mean()),
    )


def differ(vectors: Float[Tensor, "rows width"]) -> bool:
    """Whether rows have different vectors, beyond rounding: those of a static prompt do not."""
    return bool(((vectors - vectors[0]).abs() > 1e-5 * vectors.abs().max()).any())


def _nearest(vectors: Float[Tensor, "rows width"]) -> Bool[Tensor, "rows rows"]:
    """Which rows are nearest to each: several where they are equally near, up to rounding."""
    # Not by matrix products: rows that are equal must be at distance 0.
    distance = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    least = rearrange(distance.amin(1), "r -> r 1")
    return distance <= least * (1 + 1e-5) + 1e-6 * vectors.abs().max()


def _agreement(nearest: Bool[Tensor, "rows rows"], labels: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """The share of each row's nearest rows that are of its class."""
    same = rearrange(labels, "r -> r 1") == rearrange(labels, "r -> 1 r")
    return (nearest & same).sum(1) / nearest.sum(1)
