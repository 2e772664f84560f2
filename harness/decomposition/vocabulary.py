"""A projection and the passes over it: all work of a solver step that scales with the vocabulary.

The passes process the vocabulary in blocks that stay in the processor's cache between the matrix product that fills
them and the sums that read them. Most of the speedup over operations on whole projections comes from this.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.decomposition.config import Products

logger = logging.getLogger(__name__)
# Elements of one block: few enough for the cache of a CPU core, enough to fill a GPU.
_BLOCK_ELEMENTS = {"cpu": 2**17, "cuda": 2**25}
_FEWEST_TOKENS_IN_A_BLOCK = 1024
# Buffers in memory per element of a block: two projections, three products of them, and one gradient.
BLOCK_BUFFERS = 6
#: The cross-moments of order 2 to 4, as powers of (here, there).
ORDERS = ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3), (4, 0), (3, 1), (2, 2), (1, 3), (0, 4))


def block_elements(device: torch.device) -> int:
    """Return how many elements one block of a pass has on a device, over all cores."""
    elements = _BLOCK_ELEMENTS.get(device.type, _BLOCK_ELEMENTS["cuda"])
    return elements * torch.get_num_threads() if device.type == "cpu" else elements


def products_used(chosen: Products, device: torch.device, element_bytes: int) -> Products:
    """Return the arithmetic to use on a device for numbers of ``element_bytes``; resolves "auto"."""
    if chosen != "auto":
        return chosen
    return "bfloat16" if device.type == "cuda" and element_bytes == 4 else "float32"


def passes_fused(chosen: bool | None, device: torch.device) -> bool:
    """Return whether passes are compiled on a device; resolves None."""
    return device.type == "cuda" if chosen is None else chosen


class Vocabulary:
    """A projection U (d_model, V), and products with it.

    Args:
        projection: U, floating point.
        products: arithmetic of the matrix products in :meth:`cross_moments` and :meth:`move_and_pull`; see
            GeodesicConfig.
        fuse: whether torch.compile may fuse the passes; None: on CUDA.

    Attributes:
        projection: U.
        fused: whether the passes are compiled.
    """

    def __init__(self, projection: Tensor, products: Products, fuse: bool | None) -> None:
        self.projection = projection
        on_gpu = projection.device.type == "cuda"
        products = products_used(products, projection.device, projection.element_size())
        self._coarse = projection.bfloat16() if products == "bfloat16" else None
        if self._coarse is not None and on_gpu and not _sums_bfloat16_in_float32(self._coarse):
            products, self._coarse = "tf32", None
        self._tf32 = products == "tf32" and on_gpu
        self.fused = passes_fused(fuse, projection.device)

    @property
    def tokens(self) -> int:
        """Size of the vocabulary, V."""
        return self.projection.shape[1]

    def blocks(self, rows: int) -> Iterator[slice]:
        """Yield blocks of the vocabulary, sized for ``rows`` projections at a time."""
        if self.fused:  # a compiled pass makes no use of the cache, and a single shape is compiled only once
            yield slice(0, self.tokens)
            return
        size = max(_FEWEST_TOKENS_IN_A_BLOCK, block_elements(self.projection.device) // max(1, rows))
        for start in range(0, self.tokens, size):
            yield slice(start, min(start + size, self.tokens))

    def cross_moments(self, both: Tensor, tangents: Tensor, roots: Tensor, means: Tensor, totals: Tensor) -> Tensor:
        """Project tangents, and return all cross-moments of order 2 to 4 of the two projections, in one pass.

        Args:
            both: (n, 2, V), the centred projections of the current points ("here"), and space for those of the tangents
                ("there").
            tangents: (n, d_model).
            roots: (n, V), square roots of the token weights: each moment is a product of two factors, and each factor
                takes one root.
            means: (n, d_model), the mean column of U: its product with a direction is its projection's mean.
            totals: (n, 1), the sums of the token weights.

        Returns:
            (n, 12) float64, the means over the vocabulary of here^i there^j in the order of ORDERS, in which token j
            counts roots[:, j]^2 times.
        """
        offset = (tangents * means).sum(dim=-1, keepdim=True).neg_()
        total = torch.zeros(len(both), len(ORDERS), dtype=torch.float64, device=both.device)
        terms: Tensor | None = None
        for block in self.blocks(len(both)):
            pair, some = both[:, :, block], roots[:, block]
            self._product(tangents, block, out=pair[:, 1])
            if self.fused:
                total += _fused(_finish_and_sum)(pair[:, 0], pair[:, 1], some, offset)
                continue
            pair[:, 1] += offset
            if terms is None or terms.shape[-1] != pair.shape[-1]:
                terms = both.new_empty(len(both), 5, pair.shape[-1])
            total += _sums(pair, some, terms)
        return total / totals

    def move_and_pull(
        self,
        both: Tensor,
        roots: Tensor,
        cos: Tensor,
        sin: Tensor,
        cubic: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Move projections along their great circles, in place, and map a cubic of them back to the residual stream.

        Args:
            both: (n, 2, V), as filled by :meth:`cross_moments`; here becomes cos * here + sin * there.
            roots: (n, V), square roots of the token weights.
            cos: (n, 1).
            sin: (n, 1).
            cubic: (a, b, c), each (n, 1): a token's value is (a z^2 - b) z - c at its z in ``here``.

        Returns:
            (n, d_model): (((a z^2 - b) z - c) * roots^2) @ U.T.
        """
        a, b, c = cubic[0], -cubic[1], -cubic[2]
        pull = both.new_zeros(len(both), self.projection.shape[0])
        move = _fused(_move) if self.fused else _move
        for block in self.blocks(len(both)):
            by_token = move(both[:, 0, block], both[:, 1, block], roots[:, block], cos, sin, a, b, c)
            self._add_back(pull, by_token, block)
        return pull

    def _product(self, directions: Tensor, block: slice, out: Tensor) -> None:
        if self._coarse is None:
            with self._precision():
                torch.mm(directions, self.projection[:, block], out=out)
        elif out.device.type == "cuda":  # sums, and the result, in float32
            torch.mm(directions.bfloat16(), self._coarse[:, block], out_dtype=torch.float32, out=out)
        else:
            out.copy_(directions.bfloat16() @ self._coarse[:, block])

    def _add_back(self, pull: Tensor, by_token: Tensor, block: slice) -> None:
        if self._coarse is None:
            with self._precision():
                pull.addmm_(by_token, self.projection[:, block].T)
        elif pull.device.type == "cuda":
            pull += torch.mm(by_token.bfloat16(), self._coarse[:, block].T, out_dtype=torch.float32)
        else:
            pull += by_token.bfloat16() @ self._coarse[:, block].T

    @contextmanager
    def _precision(self) -> Iterator[None]:
        """Compute float32 products in TF32 inside the context, if chosen; PyTorch has no such setting per product."""
        if not self._tf32:
            yield
            return
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def _sums_bfloat16_in_float32(coarse: Tensor) -> bool:
    """Return whether this GPU and this PyTorch can multiply bfloat16 matrices with a float32 result."""
    try:
        torch.mm(coarse[:1], coarse[:1].T, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True


def _sums(pair: Tensor, roots: Tensor, space: Tensor) -> Tensor:
    """Return the (n, 12) float64 sums of here^i there^j over a block (n, 2, B), by small matrix products.

    With z, q and zz, zq, qq, each times the roots, in ``space`` (n, 5, B), every moment is a product of two of them. On
    a CPU this takes a tenth of the time of one reduction per moment.
    """
    torch.mul(pair, roots.unsqueeze(1), out=space[:, :2])
    torch.mul(pair[:, :1], space[:, :2], out=space[:, 2:4])
    torch.mul(pair[:, 1], space[:, 1], out=space[:, 4])
    rooted, terms = space[:, :2], space[:, 2:]
    second = torch.bmm(rooted, rooted.transpose(1, 2))
    third = torch.bmm(terms, rooted.transpose(1, 2))
    fourth = torch.bmm(terms, terms.transpose(1, 2))
    found = (
        *(second[:, 0, 0], second[:, 0, 1], second[:, 1, 1]),
        *(third[:, 0, 0], third[:, 0, 1], third[:, 2, 0], third[:, 2, 1]),
        *(fourth[:, 0, 0], fourth[:, 0, 1], fourth[:, 0, 2], fourth[:, 1, 2], fourth[:, 2, 2]),
    )
    return torch.stack(found, dim=-1).double()


def _finish_and_sum(here: Tensor, there: Tensor, roots: Tensor, offset: Tensor) -> Tensor:
    """Centre ``there`` in place, and return the sums of :func:`_sums`; compiles to a single loop."""
    there.add_(offset)
    z, q = here * roots, there * roots
    zz, zq, qq = here * z, here * q, there * q
    products = (z * z, z * q, q * q, zz * z, zz * q, qq * z, qq * q, zz * zz, zz * zq, zz * qq, zq * qq, qq * qq)
    return torch.stack([product.sum(dim=-1) for product in products], dim=-1).double()


def _move(
    here: Tensor, there: Tensor, roots: Tensor, cos: Tensor, sin: Tensor, a: Tensor, b: Tensor, c: Tensor
) -> Tensor:
    """Move ``here`` in place and return ((a here^2 + b) here + c) * roots^2."""
    here.mul_(cos).addcmul_(there, sin)
    by_token = torch.addcmul(b, here * here, a)
    return torch.addcmul(c, by_token, here).mul_(roots).mul_(roots)


@functools.cache
def _fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the compiled form of a pass; it falls back to the uncompiled one if compilation fails."""
    compiled = torch.compile(function, dynamic=True)
    broken = False

    def run(*tensors: Any) -> Tensor:
        nonlocal broken
        if not broken:
            try:
                return compiled(*tensors)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # missing and broken compilers raise many kinds of errors
                broken = True
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                logger.warning("torch.compile failed (%s); continuing without it, more slowly", reason)
        return function(*tensors)

    return run
