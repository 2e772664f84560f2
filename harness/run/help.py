"""Help: the composed configuration with the comments of the YAML files.

Hydra's own ``--help`` and ``--cfg job`` print only the composed values. The YAML files document each option in the
comment above it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from hydra import compose, initialize_config_module
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w@/.-]+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?$")
_INTRODUCTION = """\
neuron-harness: compare methods that describe neurons in words

  neuron-harness experiment=demo                    a small comparison without LLM or GPU
  neuron-harness [OPTION=VALUE ...]                 a run; the same command continues an interrupted one
  neuron-harness -m OPTION=A,B,C [...]              a sweep: one run for each value
  neuron-harness --cfg job [...]                    the composed configuration, with the meaning of each option
  python -m harness.plan [OPTION=VALUE ...]         estimated LLM calls, time, disk and detectable difference of a run
  python -m harness.report RUN [RUN ...]            rebuild reports, or compare runs
  python -m harness.export RUN                      export a run as a Hugging Face data set, with its card
  python -m harness.reparse RUN [RUN ...]           parse stored answers again that were not usable, without LLM calls
  python -m harness.label RUN                       a page on which people compare the descriptions of a run
  python -m harness.planted RUN                     how many planted concepts the describers of a run found
"""


def compose_config(overrides: list[str]) -> DictConfig:
    """Return the composed configuration of a run."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides)


def help_text(overrides: list[str]) -> str:
    """Return the help: commands, the choices of each group, and the composed configuration with its comments."""
    groups = "\n".join(_groups())
    return (
        f"{_INTRODUCTION}\nChoose from each group with GROUP=FILE (lists: describers=[a,b]; LLM roles: "
        f"llm@llm.explainer=FILE, .judge, .simulator):\n\n{groups}\n\n"
        f"The configuration (override with NAME.OPTION=VALUE):\n\n{explained(overrides)}"
    )


def explained(overrides: list[str]) -> str:
    """Return the composed configuration as YAML, with the comment above each option."""
    comments = dict(_comments())
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(compose_config(overrides)).splitlines():
        match = _KEY.match(line)
        if match:
            path[len(match["indent"]) // 2 :] = [match["key"]]
            found = next((comments[name] for name in _names(path) if name in comments), [])
            lines += [f"{match['indent']}# {comment}" for comment in found]
        lines.append(line)
    return "\n".join(lines)


#: Groups whose files have the name of a method as first key.
_METHODS = frozenset({"describers", "judges"})


def _names(path: list[str]) -> Iterator[str]:
    """Yield the names under which an option may have a comment.

    LLM roles share the comments of the ``llm`` files. A method inside another has the comments of its own file, and
    options that methods share have those of ``_shared``.
    """
    if path[0] == "llm" and len(path) > 2:
        path = ["llm", *path[2:]]
    yield ".".join(path)
    if path[0] in _METHODS:
        yield from (
            ".".join([group, *path[start:]])
            for start in range(2, len(path))
            for group in ("describers", "judges", "_shared")
        )


def _groups() -> Iterator[str]:
    for group in _folders():
        for file in _files(group):
            lines = (line for line in file.read_text("utf-8").splitlines() if not line.startswith("# @package"))
            about = " ".join(line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines))
            yield f"  {f'{group.name}={_choice(file)}':38} {about.split('. ')[0].rstrip('.')}"


def _comments() -> Iterator[tuple[str, list[str]]]:
    yield from _comments_of(resources.files("conf").joinpath("config.yaml"), [])
    shared = resources.files("conf").joinpath("_shared")
    for file in _files(shared):
        yield from _comments_of(file, [shared.name])
    for group in _folders():
        # Files of methods have the method's name as first key; experiments and sweeps start from the root.
        prefix = [] if group.name in {"experiment", "sweep"} else [group.name]
        for file in _files(group):
            yield from _comments_of(file, prefix)


def _comments_of(file: Traversable, prefix: list[str]) -> Iterator[tuple[str, list[str]]]:
    pending: list[str] = []
    path: list[str] = []
    above: list[str] | None = None  # in a list of defaults, the comment above it: that of a method whose key follows
    for line in file.read_text("utf-8").splitlines():
        if line == "defaults:":
            above = pending
        if above is not None:
            if line:
                continue
            pending, above = above if prefix and prefix[0] in _METHODS else [], None
            continue
        match = _KEY.match(line)
        if line.strip().startswith("# "):
            pending.append(line.strip()[2:])
            continue
        if match:
            path[len(match["indent"]) // 2 :] = [match["key"]]
            found = [*pending, *([match["comment"]] if match["comment"] else [])]
            if found:
                yield ".".join([*prefix, *path]), found
        pending = []


def choices(group: str) -> list[str]:
    """Return the names of the files in a group."""
    return [_choice(file) for folder in _folders() if folder.name == group for file in _files(folder)]


#: Optional groups, and the override that leaves each of them out.
_LEFT_OUT = {"corpus": "~corpus", "experiment": "~experiment", "describers": "describers=[]", "judges": "judges=[]"}


def null_choice(override: str) -> str:
    """Return what to write instead of ``GROUP=null``; empty for any other override."""
    group = override.removesuffix("=null")
    found = choices(group.partition("@")[0])
    if group == override or not found:
        return ""
    if group in _LEFT_OUT:
        cure = f"leave the group out with {_LEFT_OUT[group]}"
    elif "none" in found:
        cure = f"choose {group}=none"
    else:
        cure = f"choose from {', '.join(found)}"
    return f"{override} is not possible: {cure}"


def missing_choice(error: MissingConfigException) -> str:
    """Return an error message that names the missing choice and those that exist."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if group in ("hydra/launcher", "hydra/sweeper"):
        return f"there is no {group}={name} in this environment: pip install 'neuron-harness[sweep]'"
    known = {*choices(group), *(error.options or [])}
    if not known:
        return " ".join(str(error).split())
    return (
        f"there is no {group}={name}; choose from {', '.join(sorted(known))}, "
        "or add the folder with your own: hydra.searchpath=[file://FOLDER]"
    )


def _folders() -> list[Traversable]:
    folders = (item for item in resources.files("conf").iterdir() if item.is_dir() and not item.name.startswith("_"))
    return sorted(folders, key=lambda item: item.name)


def _files(group: Traversable) -> list[Traversable]:
    return sorted((item for item in group.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)


def _choice(file: Traversable) -> str:
    return file.name.removesuffix(".yaml")
