"""Stage: before neurons are described, the explainer describes evidence whose answer is known."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from functools import partial

from harness.folder import Journal, RunFolder
from harness.llm.budget import FailureBudget
from harness.llm.client import LLMClient
from harness.llm.serving import Serving
from harness.methods import Describer, Draft
from harness.planted.explainer_cases import PlantedConcept, planted_case, planted_concepts
from harness.records import PlantedAnswer
from harness.results.explainer_check import explainer_rows
from harness.results.formatting import percent
from harness.results.schema import ExplainerRow
from harness.run.answers import Clients, answer_all, attempt, clients_of
from harness.run.describe import pending_descriptions
from harness.run.manifest import note_explainer_check
from harness.run.setup import Setup

logger = logging.getLogger(__name__)


def pending_checks(setup: Setup, journal: Journal[PlantedAnswer]) -> dict[str, list[PlantedConcept]]:
    """Return the planted concepts still to be described, by the name of each describer that asks an explainer."""
    concepts = planted_concepts()[: setup.explainer_check.concepts]
    return {
        name: [concept for concept in concepts if not journal.done((name, concept.name))]
        for name in checked_describers(setup)
    }


def checked_describers(setup: Setup) -> dict[str, Describer]:
    """Return the describers that show evidence to an LLM of the run, by the name of their entry.

    A describer that selects among descriptions of another one is checked by that one. Describers that read the
    descriptions of others are not checked.
    """
    found = {name: _asking(describer, setup) for name, describer in setup.describers.items()}
    return {name: describer for name, describer in found.items() if describer is not None}


def _asking(describer: Describer, setup: Setup) -> Describer | None:
    checked = describer.checked
    return None if checked.after or checked.role is None or checked.role not in setup.backends else checked


async def check_explainer(setup: Setup, folder: RunFolder, serving: Serving) -> None:
    """Describe every planted concept that is still missing; warn if too few of all were named.

    Failures do not count for the failure budget: whether the explainer is good enough is for the user to decide.
    """
    journal = folder.explainer_check()
    pending = pending_checks(setup, journal)
    describers, concepts = checked_describers(setup), planted_concepts()[: setup.explainer_check.concepts]

    async def answer(name: str, llms: Clients, concept: PlantedConcept) -> PlantedAnswer:
        describer = describers[name]

        def work(metered: Mapping[str, LLMClient]) -> Awaitable[str | Draft]:
            case = planted_case(
                *(concept, describer, metered, setup.subject),
                kinds=setup.kinds,
                values=setup.steering.effects.values,
                budget=setup.config["evidence_budget"],
                seed=setup.seed,
            )
            return describer.describe(case)

        made, status, detail, usage = await attempt(llms, work)
        if made is None:
            return PlantedAnswer(name, concept.name, "", (), status, detail, usage)
        text = " ".join(Draft.of(made).text.split())
        named = tuple(other.name for other in concepts if other.is_named(text))
        return PlantedAnswer(name, concept.name, text, named, usage=usage)

    for name, items in pending.items():
        if items:
            llms = clients_of(name, describers[name], setup, serving, FailureBudget(name, None, 1))
            title = f"check the explainer with {name}"
            await answer_all(title, "concepts", items, partial(answer, name, llms), journal)
    journal.close()
    rows = explainer_rows(journal.records(), seed=setup.seed, config=setup.statistics)
    if rows and folder.manifest.exists():  # a plan's trial has none
        note_explainer_check(folder, rows[0])
    if rows and (any(pending.values()) or any(pending_descriptions(setup, folder.descriptions()).values())):
        _say(setup, rows[0])


def _say(setup: Setup, total: ExplainerRow) -> None:
    """Log the result; warn if it is below the limit."""
    limit = setup.explainer_check.warn_below
    models = sorted({setup.backends[one.role].model for one in checked_describers(setup).values() if one.role})
    found = (
        f"the explainer ({', '.join(models)}) named {percent(total.right)} % of the planted concepts in "
        f"{total.answers} answers, {total.unusable} of them unusable; {percent(total.chance)} % by chance"
    )
    if total.right is None or total.right < limit:
        logger.warning(
            "%s: too few (explainer_check.warn_below=%g), so do not expect its descriptions to say what neurons do",
            *(found, limit),
        )
    else:
        logger.info("%s", found)
