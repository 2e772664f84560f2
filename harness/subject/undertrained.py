"""Tokens that training never or hardly touched, found in an embedding or unembedding matrix alone.

After Land & Bartolo 2024, arXiv:2405.05417: such tokens lie where known-unused ones lie. What they share moved them all
alike (weight decay, and at the output the softmax, which pushes down every token that is not the next one), and what
tells them apart is still their random start. So in either matrix they form one round cloud, much smaller than the
vocabulary, and everything that was trained has left it. The paper ranks tokens by their distance to the cloud's middle
and verifies candidates by prompting the model; here the cloud itself says how far it reaches, and no model is run.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

#: A group of known-unused tokens needs so many members to show where the cloud is, and how wide.
_MIN_KNOWN = 8
_MAX_KNOWN = 4096
#: The cloud ends so many standard deviations beyond the median distance of its members to their mean.
_REACH = 4.0
#: Nor has a token been trained that went less than this part of the typical token's way out of the cloud.
_HARDLY = 0.1
#: What is found is believed only if the typical other token is so many times farther than the cloud's end ...
_CONTRAST = 1.25
#: ... and no more tokens lie between that end and so many times it than in the cloud: no mere place in a continuum.
_RIM = 1.15
#: Without known-unused tokens, also only if it is round: mean squared cosine of its members' deviations, in units of
#: that of random directions (1 / d_model). Trained tokens deviate in few directions, those of meaning.
_ROUND = 2.0
#: Where they stand is as dense as the densest place, by the distance to so many neighbours, up to this factor.
_NEIGHBOURS, _DENSE = 16, 1.25
_ANCHORS, _SKETCH = 1024, 128
_BLOCK = 8192


def under_trained(matrix: Tensor, known: Iterable[Collection[int]] = ()) -> frozenset[int]:
    """Return the tokens whose rows cannot be told from rows that were never trained; the known ones may be among them.

    Groups of known-unused tokens are looked at one by one, for they may have been made at different times: places kept
    free, rows added to fill the matrix. A group whose members were trained, or whose surroundings are not emptier than
    itself, tells nothing. Without any group the densest place of the matrix is taken for the cloud if it is round.
    Conservative by construction: on a vocabulary that is trained throughout, or not at all, nothing is found.

    Args:
        matrix: (V, d_model), an embedding W_E or a transposed unembedding W_U.T.
        known: groups of ids that are known, or thought, to be unused.
    """
    groups = [sorted(group) for group in known if len(group) >= _MIN_KNOWN]
    found: set[int] = set()
    for group in groups:
        found.update(_like(matrix, group))
    if not groups:
        found.update(_densest(matrix))
    return frozenset(found)


def _like(matrix: Tensor, group: list[int]) -> list[int]:
    """Return the tokens that lie in the cloud of known-unused tokens, or none if it is no cloud or they are few."""
    if len(group) < _MIN_KNOWN:
        return []
    rows = matrix[group[:: math.ceil(len(group) / _MAX_KNOWN)]]
    # Some of the known ones may have been trained after all: start from the half nearest to their median.
    nearest = (rows - rows.median(dim=0).values).norm(dim=1).argsort()[: math.ceil(len(rows) / 2)]
    centre, reach = _cloud(rows, nearest)
    return _members(_distances(matrix, centre), reach)


def _densest(matrix: Tensor) -> list[int]:
    """Return the tokens of the densest place of the matrix, or none if nothing shows that they are untrained."""
    tokens, width = matrix.shape
    if tokens <= 2 * _NEIGHBOURS:
        return []
    random = torch.Generator().manual_seed(0)
    # Distances of every token to every other would be V x V: some tokens, in a random projection, are enough to see
    # where it is dense. Decay draws unused input embeddings towards zero, so the shortest rows are asked as well.
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


def _cloud(rows: Tensor, members: Tensor) -> tuple[Tensor, float]:
    """Grow a cloud among some rows from its first members until it stays.

    Only known rows are grown among: among all, it would creep along the continuum of ever more training.

    Returns:
        Its middle (d_model,) and the distance from there at which it ends.
    """
    for _ in range(12):
        count = len(members)
        centre = rows[members].mean(dim=0)
        distances = _distances(rows, centre)
        # A mean lies nearer to those it is made of than to others of their kind.
        own = distances[members] * math.sqrt((count + 1) / (count - 1))
        median = own.median()
        # The lower half alone says how wide the cloud is, for tokens on their way out lie in the upper. Distances of a
        # round Gaussian cloud cannot vary less than median / sqrt(2 d_model); few members may seem to.
        spread = max(float(median - own[own <= median].median()) * 1.4826, float(median) / math.sqrt(2 * rows.shape[1]))
        reach = float(median) + _REACH * spread + 1e-6 * float(centre.norm())  # equal rows differ by rounding
        now = (distances <= reach).nonzero().flatten()
        if torch.equal(now, members) or len(now) < 2:
            break
        members = now
    return centre, reach


def _members(distances: Tensor, reach: float) -> list[int]:
    """Return the tokens in a cloud that ends at ``reach``, or none if it does not stand out from the vocabulary."""
    rest = distances[distances > reach]
    if len(rest) <= len(distances) // 10:
        return []
    typical = float(rest.median())
    reach = max(reach, _HARDLY * typical)
    inside, rim = distances <= reach, distances <= _RIM * reach
    stands_out = typical >= _CONTRAST * reach and int(rim.sum()) <= 2 * int(inside.sum())
    return inside.nonzero().flatten().tolist() if stands_out else []


def _distances(matrix: Tensor, centre: Tensor) -> Tensor:
    """Return the distance of each row to a point, (V,), without a second matrix."""
    return torch.cat([(block - centre).norm(dim=1) for block in _blocks(matrix)])


def _blocks(matrix: Tensor) -> Iterator[Tensor]:
    return (matrix[start : start + _BLOCK] for start in range(0, len(matrix), _BLOCK))
