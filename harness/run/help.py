"""Help that reads like documentation: the configuration with the comments of the files it was composed from.

Hydra's own ``--help`` and ``--cfg job`` print the composed values only; the meaning of each option stands in the YAML
files, in the comment lines above it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from hydra import compose, initialize_config_module
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w@/.-]+):(?P<value>.*?)(?:\s+# (?P<comment>.*))?$")
_INTRODUCTION = """\
neuron-harness: which way of describing a neuron is best?

  neuron-harness experiment=demo                    the main job in small, without LLM or GPU
  neuron-harness [OPTION=VALUE ...]                 a run; started again with the same folder it goes on
  neuron-harness -m OPTION=A,B,C [...]              a sweep: one run for each value
  neuron-harness --cfg job [...]                    the composed configuration, each option with its meaning
  python -m harness.plan [OPTION=VALUE ...]         what such a run would ask, take and show, before anything is spent
  python -m harness.report RUN [RUN ...]            rebuild reports, or set runs side by side
  python -m harness.export RUN                      a run as a Hugging Face data set, with its card
  python -m harness.reparse RUN [RUN ...]           read stored answers again that could not be used, and ask nothing
  python -m harness.planted RUN                     what describers found of what was planted in a planted subject
"""


def compose_config(overrides: list[str]) -> DictConfig:
    """Compose the configuration as a run would."""
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", overrides)


def help_text(overrides: list[str]) -> str:
    """Return the help: commands, the files to choose from in each group, and the composed configuration explained."""
    groups = "\n".join(_groups())
    return (
        f"{_INTRODUCTION}\nChoose from each group with GROUP=FILE (lists: describers=[a,b]; LLM roles: "
        f"llm@llm.explainer=FILE, .judge, .simulator):\n\n{groups}\n\n"
        f"The configuration, with what every option means (override with NAME.OPTION=VALUE):\n\n{explained(overrides)}"
    )


def explained(overrides: list[str]) -> str:
    """Return the composed configuration as YAML, with the comment of every option above it."""
    comments = dict(_comments())
    lines: list[str] = []
    path: list[str] = []
    for line in OmegaConf.to_yaml(compose_config(overrides)).splitlines():
        match = _KEY.match(line)
        if match:
            depth = len(match["indent"]) // 2
            path[depth:] = [match["key"]]
            found = next((comments[name] for name in _names(path) if name in comments), [])
            lines += [f"{match['indent']}# {comment}" for comment in found]
        lines.append(line)
    return "\n".join(lines)


def _names(path: list[str]) -> Iterator[str]:
    """Yield the names under which an option may be explained.

    LLM roles share the comments of the ``llm`` files; a method inside another one has those of its own file.
    """
    if path[0] == "llm" and len(path) > 2:
        path = ["llm", *path[2:]]
    yield ".".join(path)
    if path[0] in {"describers", "judges"}:
        yield from (".".join([group, *path[at:]]) for at in range(2, len(path)) for group in ("describers", "judges"))


def _groups() -> Iterator[str]:
    for group in sorted(_folders(), key=lambda item: item.name):
        for file in _files(group):
            about = []
            for line in file.read_text("utf-8").splitlines():
                if line.startswith("# @package"):
                    continue
                if not line.startswith("# "):
                    break
                about.append(line[2:])
            name = f"{group.name}={file.name.removesuffix('.yaml')}"
            yield f"  {name:38} {' '.join(about).split('. ')[0].rstrip('.')}"


def _comments() -> Iterator[tuple[str, list[str]]]:
    root = resources.files("conf")
    yield from _comments_of(root.joinpath("config.yaml"), [])
    for group in _folders():
        # Methods carry their own name as a first key, and experiments theirs from the root.
        prefix = [] if group.name in {"experiment", "sweep"} else [group.name]
        for file in _files(group):
            yield from _comments_of(file, prefix)


def _comments_of(file: Traversable, prefix: list[str]) -> Iterator[tuple[str, list[str]]]:
    pending: list[str] = []
    path: list[str] = []
    for line in file.read_text("utf-8").splitlines():
        text = line.strip()
        match = _KEY.match(line)
        if text.startswith("# "):
            pending.append(text[2:])
        elif match:
            depth = len(match["indent"]) // 2
            path[depth:] = [match["key"]]
            found = [*pending, *([match["comment"]] if match["comment"] else [])]
            if found:
                yield ".".join([*prefix, *path]), found
            pending = []
        else:
            pending = []


def choices(group: str) -> list[str]:
    """Return the files to choose from in a group, without their endings."""
    folder = next((item for item in _folders() if item.name == group), None)
    return [] if folder is None else [file.name.removesuffix(".yaml") for file in _files(folder)]


#: Groups that a run can do without, and how it is told to.
_LEFT_OUT = {"corpus": "~corpus", "experiment": "~experiment", "describers": "describers=[]", "judges": "judges=[]"}


def null_choice(override: str) -> str:
    """Say what to write instead of ``GROUP=null``; nothing if an override is none of that kind."""
    group = override.removesuffix("=null")
    found = choices(group.partition("@")[0])
    if group == override or not found:
        return ""
    if group in _LEFT_OUT:
        cure = f"leave the group out with {_LEFT_OUT[group]}"
    elif "none" in found:
        cure = f"choose {group}=none"
    else:
        cure = f"a run needs one; choose from {', '.join(found)}"
    return f"{override} is no choice: {cure}"


def missing_choice(error: MissingConfigException) -> str:
    """Say which choice does not exist, and which do."""
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
    return [item for item in resources.files("conf").iterdir() if item.is_dir() and not item.name.startswith("_")]


def _files(group: Traversable) -> list[Traversable]:
    return sorted((item for item in group.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
