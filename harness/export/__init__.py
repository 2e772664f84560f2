"""Export a run: as a data set, or in the formats of other projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.lazy import lazy_exports

if TYPE_CHECKING:
    from harness.export.dataset import export_run, push
    from harness.export.elsewhere import export_to

__all__ = ["export_run", "export_to", "push"]

__getattr__ = lazy_exports(__name__, __file__)
