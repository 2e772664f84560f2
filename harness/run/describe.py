"""Stage: every describer describes every neuron."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from harness.evidence import TextReader
from harness.exemplar_table import ExemplarTable
from harness.folder import Journal, RunFolder
from harness.llm.client import LLMClient
from harness.llm.serving import Serving
from harness.methods import Describer, DescriberCase, Draft
from harness.records import Activity, Channel, Description, Effect, Neuron, Split, Status
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.open_evidence import Evidence
from harness.run.setup import Setup

OPEN_TO_DESCRIBERS = (Split.EXPLAIN, Split.SELECT)


def pending_descriptions(setup: Setup, journal: Journal[Description]) -> dict[str, list[Neuron]]:
    """Return, for each describer in the order in which they can work, the neurons it has yet to describe."""
    return {
        name: [neuron for neuron in setup.described if not journal.done((neuron, name))]
        for name in setup.ordered_describers()
    }


async def describe(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Make every description that is not there yet."""
    journal = folder.descriptions()
    pending = pending_descriptions(setup, journal)
    if not any(pending.values()):
        return
    reader = TextReader(setup.subject, setup.neurons, setup.executor.device)
    cases = Cases(
        setup, folder.read_channels(), folder.exemplar_table(), folder.read(Activity), folder.read(Effect), reader
    )
    for name, neurons in pending.items():
        if not neurons:
            continue
        describer = setup.describers[name]
        llms = clients_of(name, describer, setup, serving)
        made = {(record.neuron, record.describer): record for record in journal.records()}
        others = {
            other: {neuron: made[neuron, other] for neuron in setup.described if (neuron, other) in made}
            for other in describer.after
        }
        work = partial(_describe, setup, cases, name, describer, llms, others)
        await answer_all(f"describe with {name}", "neurons", neurons, work, journal)
    journal.close()
    reader.close()


class Cases:
    """What describers may see, by neuron: never the splits that judges look at."""

    def __init__(
        self,
        setup: Setup,
        channels: Sequence[Channel],
        exemplars: ExemplarTable | None,
        activity: Sequence[Activity],
        effects: Sequence[Effect],
        reader: TextReader,
    ) -> None:
        self._setup, self._reader = setup, reader
        self._channels: dict[Neuron, list[Channel]] = defaultdict(list)
        self._evidence = Evidence(exemplars, activity, OPEN_TO_DESCRIBERS)
        self._effects: dict[Neuron, list[Effect]] = defaultdict(list)
        for channel in channels:
            self._channels[channel.neuron].append(channel)
        for effect in effects:
            if effect.split in OPEN_TO_DESCRIBERS:
                self._effects[effect.neuron].append(effect)

    def case(
        self,
        neuron: Neuron,
        describer: Describer,
        llms: Mapping[str, LLMClient],
        others: dict[str, dict[Neuron, Description]],
    ) -> DescriberCase:
        """Return one neuron's case for a describer."""
        return DescriberCase(
            neuron=neuron,
            exemplars=self._evidence.exemplars(neuron),
            subject=self._setup.subject,
            llm=llms.get(describer.role or ""),
            seed=self._setup.seed,
            llms=llms,
            effects=tuple(self._effects[neuron]) if describer.needs_effects else (),
            activity=self._evidence.activity(neuron),
            reader=self._reader,
            channels=tuple(channel.with_sign(neuron.sign) for channel in self._channels[neuron.unsigned]),
            neurons=tuple(self._setup.described),
            others=others,
            budget=self._setup.config["evidence_budget"],
        )


async def _describe(
    setup: Setup,
    cases: Cases,
    name: str,
    describer: Describer,
    llms: Clients,
    others: dict[str, dict[Neuron, Description]],
    neuron: Neuron,
) -> Description:
    made, status, detail, usage = await attempt(
        llms, lambda metered: describer.describe(cases.case(neuron, describer, metered, others))
    )
    draft = Draft(made) if isinstance(made, str) else made
    if draft is None:
        return Description(neuron, name, "", status, detail, usage=usage)
    text = " ".join(draft.text.split())
    if not text:
        return Description(neuron, name, "", Status.FAILED, "the description is empty", usage=usage)
    return Description(neuron, name, text, status, draft.detail, draft.parts, draft.evidence, usage)
