"""Stage: every describer describes every neuron."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial

from harness.folder import Journal, RunFolder
from harness.llm.client import LLMClient
from harness.llm.serving import Serving
from harness.methods import DescriberCase, Draft
from harness.records import Channel, Description, Neuron, Split, Status
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.open_evidence import OpenEvidence
from harness.run.setup import Setup

OPEN_TO_DESCRIBERS = (Split.EXPLAIN, Split.SELECT)
Others = Mapping[str, Mapping[Neuron, Description]]


def pending_descriptions(setup: Setup, journal: Journal[Description]) -> dict[str, list[Neuron]]:
    """Return, by describer, the neurons still to be described; describers come after those whose output they read."""
    return {
        name: [neuron for neuron in setup.described if not journal.done((neuron, name))]
        for name in setup.ordered_describers()
    }


async def describe(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Make every description that is still missing."""
    journal = folder.descriptions()
    pending = pending_descriptions(setup, journal)
    if not any(pending.values()):
        return
    cases = _Cases(setup, folder)
    for name, neurons in pending.items():
        if not neurons:
            continue
        llms = clients_of(name, setup.describers[name], setup, serving)
        made = {(record.neuron, record.describer): record for record in journal.records()}
        others = {
            other: {neuron: made[neuron, other] for neuron in setup.described if (neuron, other) in made}
            for other in setup.describers[name].after
        }
        work = partial(_describe, cases, name, llms, others)
        await answer_all(f"describe with {name}", "neurons", neurons, work, journal)
    journal.close()
    cases.evidence.close()


class _Cases:
    """What describers may see of each neuron: nothing from the splits that judges use."""

    def __init__(self, setup: Setup, folder: RunFolder) -> None:
        self.setup, self.evidence = setup, OpenEvidence(setup, folder, OPEN_TO_DESCRIBERS)
        self._channels: dict[Neuron, list[Channel]] = defaultdict(list)
        for channel in folder.read_channels():
            self._channels[channel.neuron].append(channel)

    def case(self, neuron: Neuron, describer: str, llms: Mapping[str, LLMClient], others: Others) -> DescriberCase:
        """Return one neuron's case for a describer."""
        return DescriberCase(
            **self.evidence.fields(neuron, self.setup.describers[describer], llms),
            channels=tuple(channel.with_sign(neuron.sign) for channel in self._channels[neuron.unsigned]),
            neurons=tuple(self.setup.described),
            others=others,
            budget=self.setup.config["evidence_budget"],
        )


async def _describe(cases: _Cases, name: str, llms: Clients, others: Others, neuron: Neuron) -> Description:
    describer = cases.setup.describers[name]
    made, status, detail, usage = await attempt(
        llms, lambda metered: describer.describe(cases.case(neuron, name, metered, others))
    )
    draft = Draft(made) if isinstance(made, str) else made
    if draft is None:
        return Description(neuron, name, "", status, detail, usage=usage)
    text = " ".join(draft.text.split())
    if not text:
        return Description(neuron, name, "", Status.FAILED, "the description is empty", usage=usage)
    return Description(neuron, name, text, status, draft.detail, draft.parts, draft.evidence, usage, draft.tokens)
