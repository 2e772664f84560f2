"""Stage: every describer describes every neuron."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Mapping
from functools import partial

from harness.folder import ByNeuron, Journal, RunFolder
from harness.llm.asking import SHOWN
from harness.llm.client import LLMClient
from harness.llm.degenerate import same_for_most, words_of
from harness.llm.serving import Serving
from harness.methods import DescriberCase, Draft
from harness.records import Channel, Description, Draw, Neuron, Split, Status
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.open_evidence import OpenEvidence
from harness.run.setup import Setup

logger = logging.getLogger(__name__)
OPEN_TO_DESCRIBERS = (Split.EXPLAIN, Split.SELECT)
#: Distance of the LLM's seeds between draws: a describer may use some seeds after its first one.
_STEP = 10_000
Others = Mapping[str, Mapping[Neuron, Description]]


def pending_descriptions(setup: Setup, journal: Journal[Description]) -> dict[str, list[Neuron]]:
    """Return, by describer, the neurons still to be described; describers come after those whose output they read."""
    return {
        name: [neuron for neuron in setup.described if not journal.done((neuron, name))]
        for name in setup.ordered_describers()
    }


async def describe(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Make every description that is still missing, those of draws after the others."""
    for draw in (None, *setup.draws.all):
        await _describe(setup, folder, serving, draw)


async def _describe(setup: Setup, folder: RunFolder, serving: Serving, draw: Draw | None) -> None:
    journal = folder.draw(draw).descriptions()
    pending = pending_descriptions(setup, journal)
    if not any(pending.values()):
        for name in pending:
            _fail_the_same(name, journal)  # a kill may have prevented it
        journal.close()
        return
    evidence = OpenEvidence(setup, folder, OPEN_TO_DESCRIBERS, draw)
    channels, random = folder.channels_by_neuron(), folder.by_neuron(Channel)

    async def answer(name: str, llms: Clients, others: Others, neuron: Neuron) -> Description:
        describer = setup.describers[name]

        def work(metered: Mapping[str, LLMClient]) -> Awaitable[str | Draft]:
            case = DescriberCase(
                **evidence.fields(neuron, describer, metered),
                channels=_signed(channels, neuron) if describer.needs_channels else (),
                random_channels=_signed(random, neuron) if describer.needs_random_channels else (),
                neurons=tuple(setup.described),
                others=others,
                budget=setup.general.evidence_budget,
            )
            return describer.describe(case)

        made, status, detail, usage = await attempt(llms, work)
        if made is None:
            return Description(neuron, name, "", status, detail, usage=usage)
        draft = Draft.of(made)
        text = " ".join(draft.text.split())
        if not text:
            return Description(neuron, name, "", Status.FAILED, "the description is empty", usage=usage)
        how = {key: getattr(draft, key) for key in ("detail", "steps", "evidence", "tokens", "parts", "missing_parts")}
        return Description(neuron, name, text, status, usage=usage, **how)

    for name, neurons in pending.items():
        if neurons:
            llms = clients_of(name, setup.describers[name], setup, serving)
            if draw is not None and not draw.resampled:
                llms = llms.reseeded(draw.number * _STEP)
            made = {(record.neuron, record.describer): record for record in journal.records()}
            others = {
                other: {neuron: made[neuron, other] for neuron in setup.described if (neuron, other) in made}
                for other in setup.describers[name].after
            }
            title = f"describe with {name}" + ("" if draw is None else f" ({draw})")
            await answer_all(title, "neurons", neurons, partial(answer, name, llms, others), journal)
        _fail_the_same(name, journal)
    journal.close()
    evidence.close()


def _signed(channels: ByNeuron[Channel], neuron: Neuron) -> tuple[Channel, ...]:
    return tuple(channel.with_sign(neuron.sign) for channel in channels.of(neuron.unsigned))


def _fail_the_same(name: str, journal: Journal[Description]) -> None:
    """Give the status degenerate to the text of an LLM that is the same for most neurons of a describer."""
    made = [one for one in journal.records() if one.describer == name and one.status is Status.OK and one.usage.calls]
    if not (shared := same_for_most(one.text for one in made)):
        return
    same = [one for one in made if " ".join(words_of(one.text)) == shared]
    for one in same:
        detail = f"the same for {len(same)} of {len(made)} neurons: {one.text[:SHOWN]!r}"
        journal.append(
            dataclasses.replace(one, text="", status=Status.DEGENERATE, detail=detail, usage=one.usage.cached)
        )
    logger.warning("%s: the description of %d of %d neurons is the same: %r", name, len(same), len(made), shared)
