"""Prompts: jinja2 templates in the package of their method, rendered into the turns of a conversation.

Each turn of a template file starts with a line ``=== system ===``, ``=== user ===`` or ``=== assistant ===``. The file
is split into turns before anything is filled in, so that no text from a corpus or a model can start a turn.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib import resources
from typing import Any, Literal, cast

from jinja2 import Environment, StrictUndefined

from harness.llm.client import Message
from harness.records import Exemplar

_TURN = re.compile(r"^=== (system|user|assistant) ===\n", re.MULTILINE)
#: The prompts' own marks, and characters that Unicode's compatibility normalisation (done by some tokenizers) turns
#: into them.
_MARKS = str.maketrans({"«": "‹", "»": "›"} | dict.fromkeys("<＜﹤", "‹") | dict.fromkeys(">＞﹥", "›"))
#: Marks of chat templates without angle brackets: [INST], [/INST], [TOOL_CALLS], [gMASK], ]~b].
_TEMPLATE_MARK = re.compile(r"\[(/?\w*[A-Z]{2}\w*)\]|[\[\]](~!?b|e~)[\[\]]")
_LONGEST = 2000
_LONGEST_TOKEN = 200  # characters of one token of a window; runs of blanks or dashes are the longest real ones
_DROPPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, invisible format, surrogates, line and paragraph separators
#: Invisible characters of other categories that can hide text: fillers, joiners and variation selectors.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
_DOTTED_CIRCLE = "◌"  # base for a combining character that would change the mark before it


def quoted(text: str, longest: int = _LONGEST) -> str:
    """Make text from a corpus or a model safe inside a prompt: one line, without the prompt's own marks.

    Line breaks and tabs become symbols, other control and invisible characters are dropped (a text of nothing else is
    shown as code points), the prompts' delimiters and the marks of chat templates become look-alikes, and a long text
    is cut. Other brackets stay. Unicode normalisation of the result creates no marks, and quoting it again changes
    nothing.
    """
    if len(text) > longest:
        text = f"{text[: longest - 1]}…"
    lines = text.replace("\r\n", "⏎").replace("\n", "⏎").replace("\t", "⇥")
    kept = _INVISIBLE.sub("", lines)
    if not kept.isprintable():  # a quick check: nearly every text is printable and needs no dropping
        kept = "".join(char for char in kept if unicodedata.category(char) not in _DROPPED)
    if text and not kept:
        kept = "".join(f"‹U+{ord(char):04X}›" for char in text[:8])
    kept = _unmarked(kept.translate(_MARKS))
    if not unicodedata.normalize("NFC", f">{kept[:1]}").startswith(">"):
        kept = (_DOTTED_CIRCLE + kept)[:longest]
    return kept


def _unmarked(text: str) -> str:
    return _TEMPLATE_MARK.sub(lambda mark: f"⟦{mark[1] or mark[2]}⟧", text)


def highlighted(exemplar: Exemplar, threshold: float, context: int | None = None) -> str:
    """Return a window as text, with the tokens whose activation reaches ``threshold`` between « and ».

    Args:
        exemplar: the window.
        threshold: lowest activation of a marked token.
        context: tokens kept on either side of the peak; None for the whole window.
    """
    shown = exemplar if context is None else exemplar.crop(2 * context + 1, shift=False)
    reached = (activation >= threshold for activation in shown.activations)
    return spans(zip(shown.tokens, reached, strict=True)).strip()


def spans(tokens: Iterable[tuple[str, bool]]) -> str:
    """Return tokens as running text that is safe inside a prompt, with the marked ones between « and »."""
    pieces = ((quoted(token, _LONGEST_TOKEN), marked) for token, marked in tokens)
    text = "".join(f"«{piece}»" if marked else piece for piece, marked in pieces)
    # Again, because a mark of a chat template may span tokens.
    return _unmarked(text.replace("»«", ""))


def running(tokens: Iterable[str]) -> str:
    """Return tokens as running text that is safe inside a prompt."""
    return spans((token, False) for token in tokens)


_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
_ENVIRONMENT.filters["quoted"] = quoted
_ENVIRONMENT.filters["highlighted"] = highlighted
_ENVIRONMENT.filters["running"] = running
_compiled = lru_cache(_ENVIRONMENT.from_string)  # compiling a turn takes ten times as long as rendering it


class Prompt:
    """A prompt template of a package.

    Args:
        package: the package that contains the file; usually the module's own ``__package__``.
        name: file name inside it, such as ``prompts/rotate_channel.j2``.
    """

    def __init__(self, package: str, name: str) -> None:
        self._package, self.name = package, name

    @cached_property
    def source(self) -> str:
        """The template's text."""
        return resources.files(self._package).joinpath(self.name).read_text("utf-8")

    @property
    def fingerprint(self) -> str:
        """A hash of the template, for manifests."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def render(self, **values: Any) -> list[Message]:
        """Render the template and return its turns; a missing name raises ``jinja2.UndefinedError``."""
        before, *turns = _TURN.split(self.source)
        if before.strip() or not turns:
            raise ValueError(f"the prompt {self.name} does not start with a turn such as '=== user ==='")
        roles = cast("list[Literal['system', 'user', 'assistant']]", turns[::2])
        texts = (_compiled(text).render(**values).strip("\n") for text in turns[1::2])
        return [Message(role, text) for role, text in zip(roles, texts, strict=True)]


def prompts_of(method: object) -> dict[str, str]:
    """Return the fingerprint of every prompt that a describer or judge declares as a class attribute, by name.

    Includes the prompts of the methods that it wraps (``inner``).
    """
    members = {name: value for kind in reversed(type(method).__mro__) for name, value in vars(kind).items()}
    own = {value.name: value.fingerprint for value in members.values() if isinstance(value, Prompt)}
    return {name: prompt for one in getattr(method, "inner", ()) for name, prompt in prompts_of(one).items()} | own
