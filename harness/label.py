"""Write a page on which people compare the descriptions of a run: ``python -m harness.label RUN``.

The page shows pairs of descriptions with the evidence that a judge sees, without the names of their describers. It
needs no server, works by keyboard, and saves a labels file for the judge ``human`` (``conf/judges/human.yaml``). No LLM
is called. Steered texts and measured effects are those of the run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.errors import HarnessError
from harness.folder import RunFolder, replacing
from harness.llm.client import Unanswered
from harness.methods import Comparator, EvidenceBlock
from harness.records import Description, Neuron, Status
from harness.report.label_page import Item, label_page
from harness.run.building import build_group, plain
from harness.run.help import compose_config
from harness.run.judge import JudgeCases
from harness.run.setup import Setup
from harness.seeds import derive_rng

FALLBACK = "pairwise"
"""The judge whose evidence is shown if no judge of the run can show its own."""


@dataclass(frozen=True)
class Pair:
    """Two descriptions of one neuron, in the order in which people see them."""

    first: Description
    second: Description


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and print its path; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m harness.label", description=(__doc__ or "").replace("``", ""))
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run with descriptions")
    parser.add_argument("--pairs", type=int, default=100, metavar="N", help="pairs on the page (100)")
    shown = f"judge whose evidence is shown (the first of the run that can show it, else {FALLBACK})"
    parser.add_argument("--judge", metavar="NAME", help=shown)
    named = "describers to compare, separated by commas (all of the run)"
    parser.add_argument("--describers", metavar="A,B", type=lambda text: text.split(","), help=named)
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the page (label.html in RUN)")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error("--pairs must be at least 1")
    sys.path.insert(0, str(Path.cwd()))  # so that the config can name methods in the user's folder
    folder = RunFolder(options.run)
    output = options.output or folder.path / "label.html"
    try:
        page = page_of(folder, options.pairs, options.judge, options.describers)
        with replacing(output) as aside:
            aside.write_text(page, encoding="utf-8")
    except (HarnessError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


def page_of(folder: RunFolder, count: int, judge: str | None = None, describers: Sequence[str] | None = None) -> str:
    """Return the page for at most ``count`` pairs.

    Raises:
        HarnessError: if the folder has no descriptions to compare, or the judge cannot show its evidence.
    """
    manifest = folder.read_manifest()
    setup = Setup.of(OmegaConf.create({**manifest["config"], "folder": str(folder.path)}))
    for name in describers or ():
        if name not in setup.describers:
            raise HarnessError(f"{folder.path} has no describer {name!r}; choose from {', '.join(setup.describers)}")
    name, comparator = _judge_of(setup, judge)
    neurons = set(setup.comparisons.judged(name, setup.described))
    made = [one for one in folder.descriptions().records() if one.status is Status.OK and one.neuron in neurons]
    made = [one for one in made if describers is None or one.describer in describers]
    cases = JudgeCases(setup, folder, {(one.neuron, one.describer): one for one in made})
    missing: dict[Neuron, str] = {}

    def evidence(first: Description, second: Description) -> tuple[EvidenceBlock, ...]:
        try:
            return comparator.evidence(cases.case(comparator, {}, first, second), first.text, second.text)
        except Unanswered as error:
            missing[first.neuron] = error.detail
            return ()

    try:
        # Whether a neuron has evidence does not depend on the two descriptions.
        shown = {neuron for neuron, (one, *_) in _by_neuron(made).items() if evidence(one, one)}
        pairs = choose_pairs([one for one in made if one.neuron in shown], count, setup.seed)
        items = [Item(str(one.first.neuron), one.first, one.second, evidence(one.first, one.second)) for one in pairs]
    finally:
        cases.close()
    if not items:
        why = "".join(f" ({neuron}: {detail})" for neuron, detail in list(missing.items())[:1])
        raise HarnessError(f"{folder.path} has no two descriptions of a neuron with evidence of {name} to compare{why}")
    return label_page(setup.general.name, comparator.side, items)


def choose_pairs(descriptions: Sequence[Description], count: int, seed: int) -> list[Pair]:
    """Return at most ``count`` pairs of different descriptions of the same neuron.

    The choice is balanced: every pair of describers comes equally often (as far as there are neurons), and each of the
    two is shown first equally often. It depends only on the seed and the descriptions.
    """
    waiting: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for of_neuron in _by_neuron(descriptions).values():
        for one, other in itertools.combinations(sorted(of_neuron, key=lambda item: item.describer), 2):
            if one.text != other.text:
                waiting[one.describer, other.describer].append(Pair(one, other))
    chosen: list[Pair] = []
    for names, pairs in waiting.items():
        rng = derive_rng(seed, "label", *names)
        pairs[:] = [pairs[place] for place in rng.permutation(len(pairs))]
        start = int(rng.integers(2))
        pairs[start::2] = [Pair(one.second, one.first) for one in pairs[start::2]]
    order = sorted(waiting, key=lambda names: derive_rng(seed, "label order", *names).random())
    for place in itertools.count():
        found = [waiting[names][place] for names in order if place < len(waiting[names])]
        chosen += found[: count - len(chosen)]
        if not found or len(chosen) == count:
            break
    shuffled = derive_rng(seed, "label shuffle").permutation(len(chosen))
    return [chosen[place] for place in shuffled]


def _by_neuron(descriptions: Sequence[Description]) -> dict[Neuron, list[Description]]:
    found: dict[Neuron, list[Description]] = defaultdict(list)
    for one in sorted(descriptions, key=lambda item: (item.neuron, item.describer)):
        found[one.neuron].append(one)
    return found


def _judge_of(setup: Setup, name: str | None) -> tuple[str, Comparator]:
    """Return the judge whose evidence is shown: one of the run, or one of ``conf/judges`` with its default options."""
    able = {key: judge for key, judge in setup.comparators.items() if type(judge).evidence is not Comparator.evidence}
    name = name or next(iter(able), FALLBACK)
    if name in able:
        return name, able[name]
    useless = f"the judge {name} shows no evidence to people; choose from {', '.join(sorted({*able, FALLBACK}))}"
    if name in setup.judges:
        raise HarnessError(useless)
    try:
        config = plain(compose_config([f"judges=[{name}]"]))
    except HydraException as error:
        raise HarnessError(f"there is no judge {name!r}, neither in this run nor in conf/judges") from error
    judge = build_group({"judges": {name: config["judges"][name]}}, "judges", object)[name]
    if not isinstance(judge, Comparator) or type(judge).evidence is Comparator.evidence:
        raise HarnessError(useless)
    if judge.needs_effects or judge.needs_steered:
        raise HarnessError(f"the run has not measured what {name} shows: add it to the judges of the run")
    return name, judge


if __name__ == "__main__":
    sys.exit(main())
