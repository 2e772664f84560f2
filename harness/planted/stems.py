"""Words without their inflections, so that two forms of one word can be known as such.

The first step of Porter 1980, *An algorithm for suffix stripping*, with its last (final e); the steps between, which
undo derivation, would make one word of "organ" and "organise".
"""

from __future__ import annotations

import re

_SHORT = re.compile(r"^[^aeiou]*[aeiouy][^aeiouwxy]$")  # one syllable that ends as "hop" does


def stem(word: str) -> str:
    """Return a word without its regular English inflection, for comparison only: what is left need be no word.

    ``ship`` and ``ships``, ``city`` and ``cities``, ``jump``, ``jumped`` and ``jumping``, ``run`` and ``running`` have
    equal stems, ``star`` and ``stare`` have not; nor have irregular forms.
    """
    root = word.lower()
    if len(root) > 4 and root.endswith(("uses", "xes", "ches", "shes")):
        root = root[:-2]
    elif len(root) > 3 and root.endswith("s") and not root.endswith(("ss", "us", "is")):
        root = root[:-1]
    for ending in ("ing", "ed"):
        if root.endswith(ending) and re.search("[aeiouy]", root.removesuffix(ending)):
            root = root.removesuffix(ending)
            if root[-1] == root[-2:-1] and root[-1] not in "lsz":
                root = root[:-1]
            elif _SHORT.match(root):
                root += "e"
            break
    if len(root) > 3 and root.endswith("e") and not _SHORT.match(root[:-1]):
        root = root[:-1]
    return f"{root[:-1]}i" if len(root) > 2 and root.endswith("y") else root
