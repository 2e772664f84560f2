"""Loads models with transformers, and finds weights that it would make up or ignore with no more than a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as _logging

#: It has no type annotations.
logging: Any = _logging

#: Parts of base models on which no hidden state depends.
_UNUSED = frozenset({"pooler"})


def from_pretrained(auto: Any, reference: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """Load a model with transformers, and return it with the report on missing and unexpected weights."""
    with _quiet():
        loaded: tuple[Any, dict[str, Any]] = auto.from_pretrained(
            reference, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    return loaded


def problem_of(model: Any, report: Mapping[str, Any], base: str = "", prefix: str = "") -> str | None:
    """Return what is wrong with the weights that a loaded model computes with, None if nothing is.

    Heads of other tasks, poolers and other modalities do not count.

    Args:
        model: the model.
        report: transformers' report on its weights.
        base: path of the language model in the base model.
        prefix: prefix of the language model's names in the checkpoint.
    """
    language = model.base_model.get_submodule(base)
    used = {name.partition(".")[0] for name, _ in [*language.named_parameters(), *language.named_buffers()]}
    if model is not model.base_model:
        used |= {name for name, _ in model.named_children() if name != model.base_model_prefix}

    def counting(names: Any) -> list[str]:
        counted = []
        for name in sorted(names):
            inner = name
            for start in (prefix, f"{model.base_model_prefix}.", f"{base}."):
                inner = inner.removeprefix(start)
            if inner.partition(".")[0] in used - _UNUSED:
                counted.append(name)
        return counted

    for names, what in (
        (counting(report["missing_keys"]), "the checkpoint lacks the weights {}, which would be random"),
        (counting(name for name, *_ in report["mismatched_keys"]), "the config does not fit the shape of {}"),
        (counting(report["unexpected_keys"]), "the model would ignore the weights {}"),
    ):
        if names:
            return what.format(", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else ""))
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' report and progress bar: a problem is an error, and the rest is of no interest."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
