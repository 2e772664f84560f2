"""Detects tokens that were never or hardly trained in an embedding or unembedding matrix.

Following Land & Bartolo 2024, arXiv:2405.05417: the rows of untrained tokens are close to those of known-unused ones.
All of them moved in the same way during training (weight decay, and at the output the softmax, which lowers every token
that is not the next one) and differ only by their random initialisation. They form one round cluster, much smaller than
the vocabulary, which trained tokens have left. The paper ranks tokens by their distance to the cluster's centre and
verifies candidates by prompting the model. Here the spread of the cluster determines its radius, and no model runs.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

#: Fewest members of a group of known-unused tokens, and most that are used.
_MIN_KNOWN = 8
_MAX_KNOWN = 4096
#: Radius of the cluster: the median distance of its members to their mean, plus this many standard deviations.
_DEVIATIONS = 4.0
#: The radius is at least this fraction of the distance of the median token outside.
_HARDLY = 0.1
#: If the radius is no more than that, all untrained tokens started at one point. A token that has hardly left it still
#: has this cosine with the point, and this fraction of its length, both seen from the mean of the other tokens.
_LEAVING = 0.5
#: A cluster counts only if the median token outside is this many radii away ...
_CONTRAST = 1.25
#: ... and between one and this many radii there are no more tokens than inside, as there would be in a continuum.
_RIM = 1.15
#: Without known-unused tokens, the cluster must also be round: largest mean squared cosine between the deviations of
#: its members, in units of that of random directions (1 / d_model). Trained tokens deviate in few directions.
_ROUND = 2.0
#: Density is the distance to this many neighbours; members are as dense as the densest row up to this factor.
_NEIGHBOURS, _DENSE = 16, 1.25
_ANCHORS, _SKETCH = 1024, 128
_BLOCK = 8192


def under_trained(matrix: Tensor, known: Iterable[Collection[int]] = ()) -> frozenset[int]:
    """Return the tokens whose rows look untrained, which may include the known-unused ones.

    Each group of known-unused tokens is examined separately, since they may have different origins: reserved tokens, or
    rows that pad the matrix. A group gives nothing if its members were trained, or if its surroundings are as dense as
    the group. If no group gives anything, the densest region of the matrix is the cluster if it is round. The method is
    conservative: it finds nothing if all tokens of the vocabulary were trained, or none.

    Args:
        matrix: (V, d_model), an embedding W_E or a transposed unembedding W_U.T.
        known: groups of ids that are known or assumed to be unused.
    """
    groups = [sorted(group) for group in known if len(group) >= _MIN_KNOWN]
    found: set[int] = set()
    for group in groups:
        found.update(_like(matrix, group))
    if not found:
        found.update(_densest(matrix))
    return frozenset(found)


def _like(matrix: Tensor, group: list[int]) -> list[int]:
    """Return the tokens in the cluster of known-unused tokens; empty if they are few or form no cluster."""
    if len(group) < _MIN_KNOWN:
        return []
    rows = matrix[group[:: math.ceil(len(group) / _MAX_KNOWN)]]
    # Some of the known ones may have been trained: start with the half nearest to their median.
    nearest = (rows - rows.median(dim=0).values).norm(dim=1).argsort()[: math.ceil(len(rows) / 2)]
    centre, radius = _cluster(rows, nearest)
    distances = _distances(matrix, centre)
    members = _members(distances, radius)
    if not members or radius > _HARDLY * float(distances.median()):
        return members
    return sorted({*members, *_leaving(matrix, centre, members)})


def _leaving(matrix: Tensor, point: Tensor, members: list[int]) -> list[int]:
    """Return the tokens that training has hardly moved away from the point where all untrained tokens are."""
    mean = (matrix.sum(dim=0) - matrix[members].sum(dim=0)) / (len(matrix) - len(members))
    way = point - mean
    found = []
    for block in _blocks(matrix):
        along = (block - mean) @ way / way.norm()
        found.append(along >= _LEAVING * torch.maximum((block - mean).norm(dim=1), way.norm()))
    return torch.cat(found).nonzero().flatten().tolist()


def _densest(matrix: Tensor) -> list[int]:
    """Return the tokens of the densest region of the matrix; empty if they are not recognisably untrained."""
    tokens, width = matrix.shape
    if tokens <= 2 * _NEIGHBOURS:
        return []
    random = torch.Generator().manual_seed(0)
    # Distances between all pairs would be V x V: a sample of tokens in a random projection is enough. Weight decay
    # draws unused input embeddings towards zero, so the sample includes the shortest rows.
    anchors = torch.cat(
        [
            torch.randperm(tokens, generator=random)[: 2 * _ANCHORS // 3],
            _distances(matrix, matrix.new_zeros(width)).topk(min(tokens, _ANCHORS // 3), largest=False).indices,
        ]
    )
    mixing = torch.randn(width, _SKETCH, generator=random) / math.sqrt(_SKETCH)
    sketch = torch.cat([block @ mixing for block in _blocks(matrix)]) if width > _SKETCH else matrix
    radii = _radii(sketch, anchors)
    densest = (sketch - sketch[anchors[radii.argmin()]]).norm(dim=1)
    nearby = densest.topk(min(tokens, _ANCHORS // 4), largest=False).indices
    anchors = torch.tensor(sorted({*anchors.tolist(), *nearby.tolist()}))
    radii = _radii(sketch, anchors)
    found = torch.tensor(_like(matrix, anchors[radii <= _DENSE * radii.min()].tolist()), dtype=torch.long)
    some = found[torch.randperm(len(found), generator=random)[:1024]]
    if len(some) < _MIN_KNOWN:
        return []
    deviations = torch.nn.functional.normalize(matrix[some] - matrix[some].mean(dim=0), dim=1)
    squares = (deviations @ deviations.T).square()
    roundness = (squares.sum() - squares.trace()) / (len(some) * (len(some) - 1)) * width
    return found.tolist() if roundness <= _ROUND else []


def _radii(rows: Tensor, anchors: Tensor) -> Tensor:
    """Return the distance of each anchor to its nearest neighbours among the rows, (len(anchors),)."""
    chunks = (anchors[start : start + 64] for start in range(0, len(anchors), 64))
    return torch.cat(
        [torch.cdist(rows[some], rows).topk(_NEIGHBOURS + 1, largest=False).values[:, -1] for some in chunks]
    )


def _cluster(rows: Tensor, members: Tensor) -> tuple[Tensor, float]:
    """Grow a cluster among the known rows from its first members until it no longer changes.

    Among all rows, it would grow along the continuum from hardly to fully trained tokens.

    Returns:
        Its centre (d_model,) and its radius.
    """
    for _ in range(12):
        count = len(members)
        centre = rows[members].mean(dim=0)
        distances = _distances(rows, centre)
        # Correct for the bias that a mean is closer to its own members than to others.
        own = distances[members] * math.sqrt((count + 1) / (count - 1))
        median = own.median()
        # The spread is estimated from the lower half, since hardly trained tokens are in the upper half. It is at least
        # that of a round Gaussian, median / sqrt(2 d_model), which few members may fall below by chance.
        spread = max(float(median - own[own <= median].median()) * 1.4826, float(median) / math.sqrt(2 * rows.shape[1]))
        radius = float(median) + _DEVIATIONS * spread + 1e-6 * float(centre.norm())  # equal rows differ by rounding
        now = (distances <= radius).nonzero().flatten()
        if torch.equal(now, members) or len(now) < 2:
            break
        members = now
    return centre, radius


def _members(distances: Tensor, radius: float) -> list[int]:
    """Return the tokens in a cluster of this radius; empty if it does not stand out from the vocabulary."""
    rest = distances[distances > radius]
    if len(rest) <= len(distances) // 10:
        return []
    typical = float(rest.median())
    radius = max(radius, _HARDLY * typical)
    inside, rim = distances <= radius, distances <= _RIM * radius
    stands_out = typical >= _CONTRAST * radius and int(rim.sum()) <= 2 * int(inside.sum())
    return inside.nonzero().flatten().tolist() if stands_out else []


def _distances(matrix: Tensor, centre: Tensor) -> Tensor:
    """Return the distance of each row to a point, (V,), without a copy of the matrix."""
    return torch.cat([(block - centre).norm(dim=1) for block in _blocks(matrix)])


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    return (matrix[start : start + _BLOCK] for start in range(0, len(matrix), _BLOCK))
