"""Description sets and exemplars in the formats of other projects; ``docs/formats.md`` lists the fields."""

from harness.formats.chosen import Chosen, DescriptionSet, Several
from harness.formats.published import Published, PublishedWindow
from harness.formats.reading import ExemplarFormat, Format, read_descriptions, read_windows

__all__ = [
    "Chosen",
    "DescriptionSet",
    "ExemplarFormat",
    "Format",
    "Published",
    "PublishedWindow",
    "Several",
    "read_descriptions",
    "read_windows",
]
