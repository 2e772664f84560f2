"""Field layouts of published sets, one function for each: from a row of a file to what it describes.

They were read from the loaders and files of the projects:

=====================  ========================================================================================
``neuronpedia``        github.com/hijohnnylin/neuronpedia (exports and API: ``schema.prisma``) and the exporter of
                       github.com/jbloomAus/SAEDashboard
``openai``             github.com/openai/automated-interpretability (Bills et al. 2023)
``transluce``          github.com/TransluceAI/observatory (``neurondb``, ``explanations``; Choi et al. 2024) and
                       github.com/TransluceAI/circuits (``half_neurons``)
``delphi``             github.com/EleutherAI/delphi (Paulo et al. 2024)
``prism``              github.com/lkopf/prism (Kopf et al. 2025)
``output_centric``     github.com/yoavgur/Feature-Descriptions (Gur-Arieh et al. 2025)
=====================  ========================================================================================

Each function raises ValueError if the row does not have its layout.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.formats.published import Published, PublishedWindow, neuron, numbers, score, strings, text, value
from harness.records import Neuron, Sign, Source, VectorKind
from harness.row_files import Row, open_text
from harness.subject.architecture import ARCHITECTURES

Fields = Mapping[str, Any]
_DESCRIPTION = " Description"
#: What the authors of the output-centric set write if a method has no description.
_NONE_FOUND = "No explanation found"
_LATENT = re.compile(r"(.+)_latent(\d+)")
#: Names of the MLP's last projection within a layer, whose input is the activations of the neurons.
_DOWN = {
    arch.mlp.vectors[VectorKind.OUT][0].removesuffix(".weight")
    for arch in ARCHITECTURES.values()
    if arch.mlp is not None
}


def neuronpedia(row: Fields, _path: Path) -> Iterator[Published]:
    """A row of ``explanations/batch-*.jsonl.gz``, or the API's answer for one feature with all its explanations."""
    layer, source = _source(value(row, "layer"))
    unit = neuron(layer, value(row, "index"))
    given = row.get("explanations", [row])
    for one in given or []:
        named = {"modelId": row.get("modelId"), "layer": row["layer"], "index": row["index"], **one, "source": source}
        model = one.get("explanationModelName")
        author = " by ".join(str(part) for part in (one.get("typeName"), model) if part)
        yield Published(unit, text(value(one, "description"), "description"), author, source, _grade(one), named)


def _grade(explanation: Fields) -> float | None:
    """Return the first of an explanation's scores, or its older fields; ``scoreV1`` is 0 if there is none."""
    for one in explanation.get("scores") or []:
        return score(one.get("value"))
    second = score(explanation.get("scoreV2"))
    return second if second is not None else score(explanation.get("scoreV1")) or None


def neuronpedia_windows(row: Fields, _path: Path) -> Iterator[PublishedWindow]:
    """A row of ``activations/batch-*.jsonl.gz``, or the API's answer for one feature with all its activations.

    ``binMin`` is -1 for the highest activations; the other windows come from intervals of the activation. Exports of
    this package name the kind in ``dataSource``.
    """
    layer, source = _source(value(row, "layer"))
    unit = neuron(layer, value(row, "index"))
    for one in row.get("activations", [row]):
        named = {"modelId": row.get("modelId"), "layer": row["layer"], "index": row["index"], "source": source}
        if one.get("dataSource") in set(Source):
            kind = Source(one["dataSource"])
        else:
            kind = Source.TOP if one.get("binMin") in (None, -1) else Source.QUANTILE
        yield PublishedWindow(unit, kind, strings(value(one, "tokens")), numbers(value(one, "values")), source, named)


def _source(layer: object) -> tuple[str, str]:
    """Split a source of Neuronpedia: ``6`` (MLP neurons) or ``6-res-jb`` (latents)."""
    number, _, source = str(layer).partition("-")
    return number, source


def openai(row: Fields, _path: Path) -> Iterator[Published]:
    """A line of ``explanations/{layer}/{neuron}.jsonl``."""
    unit = _neuron_id(row)
    for number, one in enumerate(value(row, "scored_explanations") or []):
        graded = one.get("scored_simulation") or {}
        yield Published(
            unit,
            text(value(one, "explanation"), "explanation"),
            score=score(graded.get("ev_correlation_score")),
            fields={"number": number},
        )


def openai_windows(row: Fields, _path: Path) -> Iterator[PublishedWindow]:
    """A file ``neurons/{layer}/{neuron}.json``."""
    unit = _neuron_id(row)
    quantiles = [one for part in row.get("random_sample_by_quantile") or [] for one in part]
    groups = {
        Source.TOP: value(row, "most_positive_activation_records"),
        Source.QUANTILE: quantiles,
        Source.RANDOM: row.get("random_sample") or [],
    }
    for kind, records in groups.items():
        for one in records:
            yield PublishedWindow(unit, kind, strings(value(one, "tokens")), numbers(value(one, "activations")))


def _neuron_id(row: Fields) -> Neuron:
    named = value(row, "neuron_id")
    return neuron(value(named, "layer_index"), value(named, "neuron_index"))


def transluce(row: Fields, path: Path) -> Iterator[Published]:
    """A row of the table of descriptions, or a file ``{layer}/{neuron}.json`` with explanations of both signs."""
    if "explanations" not in row:
        unit = neuron(value(row, "layer"), value(row, "neuron"), sign=value(row, "polarity"))
        found = text(value(row, "description"), "description")
        yield Published(unit, found, str(row.get("version") or ""), score=score(row.get("score")), fields=row)
        return
    named = row.get("neuron_id") or {"layer_index": path.parent.name, "neuron_index": path.name.split(".")[0]}
    for sign in Sign:
        unit = neuron(named["layer_index"], named["neuron_index"], sign=sign)
        for number, one in enumerate(row["explanations"].get(sign) or []):
            yield Published(unit, text(value(one, "explanation"), "explanation"), fields={"number": number})


def prism(row: Fields, _path: Path) -> Iterator[Published]:
    """A row of ``descriptions/**.csv``, one for each concept of a unit."""
    unit = neuron(value(row, "layer"), value(row, "unit"))
    yield Published(unit, text(value(row, "description"), "description"), fields=row)


def output_centric(row: Fields, _path: Path) -> Iterator[Published]:
    """A row of ``descriptions/*.csv``, with one column for each describer: ``MaxAct Description`` and others."""
    unit = neuron(value(row, "Layer"), value(row, "Feature"))
    source = "/".join(str(row[name]) for name in ("Sae Type", "Sae Size") if row.get(name))
    columns = [column for column in row if column.endswith(_DESCRIPTION)]
    if not columns:
        value(row, f"MaxAct{_DESCRIPTION}")
    for column in columns:
        name = column.removesuffix(_DESCRIPTION)
        found = text(row[column], column)
        fields = {**row, "describer": name, "source": source}
        yield Published(unit, "" if found == _NONE_FOUND else found, name, source, fields=fields)


def delphi_rows(path: Path) -> Iterator[Row]:
    """Yield the content of one file ``{module}_latent{index}.txt``, which is a JSON string, as a row."""
    named = _LATENT.fullmatch(path.name.removesuffix(".gz").removesuffix(".txt"))
    if named is None:
        raise ValueError("the name of the file is not {module}_latent{index}.txt")
    with open_text(path) as file:
        yield "the text", {"module": named[1], "latent": named[2], "explanation": json.load(file)}


def delphi(row: Fields, _path: Path) -> Iterator[Published]:
    """One file of ``explanations/``."""
    # The module's path from its first number on: layer, and the place within it.
    parts = re.split(r"[./-]+", row["module"])
    at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if at is None:
        raise ValueError(f"the module {row['module'][:60]!r} has no layer number")
    inside = ".".join(parts[at + 1 :])
    source = "" if inside in _DOWN else ".".join([*parts[:at], "*", *parts[at + 1 :]])
    yield Published(
        neuron(parts[at], row["latent"]),
        text(row["explanation"], "explanation"),
        source=source,
        fields={**row, "source": source},
    )
