"""Wrong values for every option there is: refused in one line that names the option, while the run is set up."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.errors import HarnessError
from harness.evidence import Corpus
from harness.llm.client import Backend
from harness.methods import Comparator, Describer, Scorer
from harness.run.building import build
from harness.run.executor import Executor
from harness.run.help import choices, compose_config
from harness.run.setup import Setup
from harness.run.trackers import Tracker
from harness.subject import Subject

#: A value of every type that a command line can give.
WRONG: tuple[Any, ...] = (None, "abc", math.nan, True, ["abc"], {"a": 1})
#: Options without a default, with a value.
MANDATORY = {
    "corpus=files": ("corpus.paths=[docs]",),
    "corpus=chat_files": ("corpus.source.paths=[docs]",),
    "corpus=planted": ("subject=planted",),
}
#: Mappings with any keys: further options of servers, names and values of a file's columns.
ANYTHING = ("extra_body", "options", "env", "where", "columns")
#: The smallest sections, for those whose options are not tried.
SMALLEST = {
    "subject": {"_target_": "harness.subject.Subject", "name": None, "sources": ["model"]},
    "executor": {"_target_": "harness.run.executor.LocalExecutor"},
    "tracking": {"_target_": "harness.run.trackers.NoTracker"},
    **{"describers": {}, "judges": {}, "llm": {}, "corpus": None},
}
#: What the entries of a group are.
KINDS: dict[str, Any] = {
    **{"describers": Describer, "judges": Comparator | Scorer, "llm": Backend, "corpus": Corpus, "subject": Subject},
    **{"executor": Executor, "tracking": Tracker},
}


def overrides_of_every_file() -> Iterator[tuple[str, ...]]:
    """Yield the overrides that together choose every file of every group."""
    for group in ("experiment", "subject", "neurons", "decomposition", "executor", "tracking", "corpus"):
        for name in choices(group):
            yield (f"{group}={name}", *MANDATORY.get(f"{group}={name}", ()))
    methods = {group: ",".join(choices(group)) for group in ("describers", "judges")}
    yield (
        *("subject=planted", *(f"{group}=[{names}]" for group, names in methods.items())),
        *("describers.precomputed.path=a.csv", "judges.human.path=a.csv"),
        *(f"{group}.imported_evidence.path=a.jsonl" for group in methods),
        *(f"{group}.imported_evidence.format=openai" for group in methods),
        *("judges.published_score.path=a.jsonl", "judges.published_score.format=openai"),
        *("llm@llm.explainer=vllm", "llm@llm.judge=openai", "llm.explainer.model=m", "llm.judge.model=m"),
    )


@dataclass(frozen=True)
class Option:
    """An option or section: the config that has it, its path in it, and its default."""

    config: Mapping[str, Any]
    path: tuple[str, ...]
    default: Any

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def wrong(self) -> tuple[Any, ...]:
        """The values to try: fewer for methods, which have most of the options and share their types."""
        return WRONG if self.path[0] not in KINDS else ("abc", True, {"a": 1})

    def is_named_in(self, message: str) -> bool:
        """Return whether a message names the option, or its section and one of the section's options."""
        section: Any = self.config
        for name in self.path[:-1]:
            section = section[name]
        inner = self.default if isinstance(self.default, Mapping) else {}
        return self.name in message or (self.path[0] in message and any(name in message for name in (*section, *inner)))

    def set_up(self, value: Any) -> None:
        """Set the option to a value, and set up what has it, as the command line does: a method, or the whole run."""
        group, length = self.path[0], 2 if self.path[0] in ("describers", "judges", "llm") else 1
        config = {**self.config, **SMALLEST, group: self.config[group]}
        inside: Any = config
        for name in self.path[:-1]:
            inside[name] = dict(inside[name])
            inside = inside[name]
        inside[self.path[-1]] = value
        if group in KINDS and len(self.path) > length:
            entry = functools.reduce(operator.getitem, self.path[:length], config)
            build(entry, ".".join(self.path[:length]), KINDS[group])
        else:
            Setup.of(OmegaConf.create(config))


def options_in(value: Any, path: tuple[str, ...], target: str) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Yield the path and the default of every option and section, after a key that equal options share."""
    if isinstance(value, Mapping):
        target = value.get("_target_", target)
    yield f"{target}:{path[-1]}", path, value
    if isinstance(value, Mapping) and path[-1] not in ANYTHING:
        for name, inner in value.items():
            if not name.startswith("_"):  # those are Hydra's
                yield from options_in(inner, (*path, name), target)


def every_option() -> list[Option]:
    """Return the options of all files; those of the same class only once."""
    found: dict[str, Option] = {}
    for overrides in overrides_of_every_file():
        config: Any = OmegaConf.to_container(compose_config([*overrides, "cache=.cache"]), resolve=True)
        for section, value in config.items():
            for key, path, default in options_in(value, (section,), section):
                # A default other than null shows the option's type.
                if key not in found or found[key].default is None:
                    found[key] = Option(config, path, default)
    return list(found.values())


EVERY = every_option()


def meaningful(default: Any, value: Any) -> bool:
    """Return whether a value can mean something for an option with this default.

    The default of an option shows its type, except for null. This knows nothing about the schema.
    """
    items = value if isinstance(value, list) else [value]
    match default:
        case None:
            return True
        case bool():
            return isinstance(value, bool) or value in ("yes", "no")
        case int() | float():
            # Null switches many options off: no limit, no sample.
            return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value == value)
        case str():
            return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
        case list():
            return value is None or all(not isinstance(item, Mapping | list | bool) for item in items)
        case Mapping() if not default:  # a mapping with any keys
            return value is None or isinstance(value, Mapping)
        case _:  # a section, or a method that is left out
            return value is None


def test_every_option_is_tried() -> None:
    assert len(EVERY) > 250
    sections = {
        "seed",
        "neurons",
        "subject",
        "corpus",
        "describers",
        "judges",
        "llm",
        "executor",
        "tracking",
        "evidence",
    }
    assert sections <= {option.path[0] for option in EVERY}


@pytest.mark.parametrize("section", sorted({option.path[0] for option in EVERY}))
def test_a_wrong_value_is_refused_in_one_line_or_means_something(section: str) -> None:
    problems = []
    for option in EVERY:
        for value in option.wrong if option.path[0] == section else ():
            what = f"{option.name}={value!r}"
            try:
                option.set_up(value)
            except HarnessError as error:
                if "\n" in str(error) or not option.is_named_in(str(error)):
                    problems.append(f"{what}: {error}")
            except Exception as error:
                problems.append(f"{what}: {type(error).__name__}: {error}")
            else:
                if not meaningful(option.default, value) and option.path[-1] not in ANYTHING:
                    problems.append(f"{what} is accepted in place of {option.default!r}")
    assert problems == []
