"""Write a run in the formats of other projects, so that their viewers and scorers read it."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from harness.errors import HarnessError
from harness.exemplar_table import ExemplarTable
from harness.folder import RunFolder, encodable, replacing
from harness.records import Description, Exemplar, Neuron, Score, Source, Status, VectorKind, VectorSummary
from harness.subject.architecture import hook_names

#: Formats of other projects; ``docs/formats.md`` lists their fields.
Elsewhere = Literal["neuronpedia", "openai", "delphi"]
#: The account that Neuronpedia's own tools use for imports without a user.
_CREATOR = "clkht01d40000jv08hvalcvly"
_SET = "neurons"  # Neuronpedia's name of the source set of MLP neurons
_BARS = 40
_RANDOM = 50  # random windows of a neuron
_DECIMALS = 5


@dataclass(frozen=True)
class Content:
    """What a run holds of the neurons that other projects can name: positive ones, without an expert.

    Attributes:
        folder: the run folder.
        exemplars: whether windows of text may be written.
    """

    folder: RunFolder
    exemplars: bool

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The run's manifest."""
        return self.folder.read_manifest()

    @cached_property
    def model(self) -> str:
        """The subject's name, as Neuronpedia writes names of models."""
        return re.sub(r"[^a-z0-9_-]+", "-", str(self.manifest["subject"]["name"]).lower()).strip("-")

    @cached_property
    def described(self) -> list[Neuron]:
        """All described neurons."""
        return sorted(map(Neuron.named, self.manifest.get("neurons", [])))

    @cached_property
    def neurons(self) -> list[Neuron]:
        """The neurons that can be named."""
        return [neuron for neuron in self.described if neuron.expert is None and not neuron.negative]

    @cached_property
    def descriptions(self) -> dict[str, dict[Neuron, Description]]:
        """The usable descriptions by describer and neuron."""
        found: dict[str, dict[Neuron, Description]] = defaultdict(dict)
        named = set(self.neurons)
        for record in sorted(self.folder.descriptions().records(), key=lambda item: (item.describer, item.neuron)):
            if record.status is Status.OK and record.neuron in named:
                found[record.describer][record.neuron] = record
        return dict(found)

    @cached_property
    def scores(self) -> dict[tuple[Neuron, str], list[Score]]:
        """The usable scores by neuron and describer, ordered by scorer."""
        found: dict[tuple[Neuron, str], list[Score]] = defaultdict(list)
        for record in sorted(self.folder.scores().records(), key=lambda item: item.scorer):
            if record.status is Status.OK:
                found[record.neuron, record.describer].append(record)
        return found

    @cached_property
    def vectors(self) -> dict[Neuron, VectorSummary]:
        """The output weights of the neurons, where they were decomposed."""
        return {item.neuron: item for item in self.folder.read_vectors(self.neurons) if item.kind is VectorKind.OUT}

    @cached_property
    def _table(self) -> ExemplarTable | None:
        return self.folder.exemplar_table() if self.exemplars else None

    def windows(self, neuron: Neuron) -> list[Exemplar]:
        """Return the exemplars of a neuron: top and quantile windows, highest activation first, then random ones."""
        found = [] if self._table is None else self._table.read([neuron])
        order = list(Source)
        return sorted(
            found,
            key=lambda item: (
                order.index(item.source),
                0.0 if item.source is Source.RANDOM else -item.activation,
                item.window,
            ),
        )

    def hook(self, neuron: Neuron) -> tuple[str, str | None] | None:
        """Return the names of a neuron's activation in TransformerLens and transformers."""
        return hook_names(self.manifest, neuron)

    def source_set(self, layer: int) -> str:
        """Return Neuronpedia's name of a source set: ``neurons``, or the kind of dictionary, such as ``res``."""
        sae = self.manifest["subject"].get("sae")
        return str(sae[str(layer)]["set"]) if sae else _SET

    def source(self, layer: int) -> str:
        """Return Neuronpedia's name of a layer's neurons (``6``) or latents (``6-res``)."""
        found = self.source_set(layer)
        return str(layer) if found == _SET else f"{layer}-{found}"


def export_to(run: RunFolder, to: Path, kind: Elsewhere, *, exemplars: bool = False) -> tuple[int, int]:
    """Write a run in the format of another project. Equal run folders give equal bytes.

    Args:
        run: the run folder.
        to: a folder that does not exist yet, or is empty.
        kind: the format.
        exemplars: whether to include the windows of text. The licence of the corpus applies to them.

    Returns:
        The number of neurons written, and of those that the format cannot name: neurons at their negative sign, and
        neurons of experts.

    Raises:
        HarnessError: if ``run`` is not a run folder or has no descriptions, or ``to`` is not empty.
    """
    content = Content(run, exemplars)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise HarnessError(f"{to} is not empty: choose another folder with --to")
    if exemplars and not run.exemplars.exists():
        raise HarnessError(f"{run.path} has no exemplars: remove --exemplars")
    if not content.descriptions:
        raise HarnessError(f"{run.path} has no descriptions of neurons that {kind} can name")
    writers: dict[Elsewhere, Callable[[Content, Path], None]] = {
        "neuronpedia": _neuronpedia,
        "openai": _openai,
        "delphi": _delphi,
    }
    try:
        writers[kind](content, to)
    except OSError as error:
        raise HarnessError(f"{to} cannot be written: {error.strerror or error}") from error
    return len(content.neurons), len(content.described) - len(content.neurons)


def _delphi(content: Content, to: Path) -> None:
    """Write ``DESCRIBER/{module}_latent{index}.txt``, each a JSON string."""
    for describer, records in content.descriptions.items():
        for neuron, record in records.items():
            hooks = content.hook(neuron)
            if hooks is None or hooks[1] is None:
                raise HarnessError(f"delphi names modules of transformers, and that of {neuron} is not known")
            _write(to / describer / f"{hooks[1]}_latent{neuron.index}.txt", _json(record.text))


def _openai(content: Content, to: Path) -> None:
    """Write ``explanations/DESCRIBER/{layer}/{neuron}.jsonl`` and ``neurons/{layer}/{neuron}.json``."""
    for describer, records in content.descriptions.items():
        for neuron, record in records.items():
            simulated = [one.value for one in content.scores[neuron, describer] if one.scorer == "simulation"]
            explained = {
                "dataclass_name": "ScoredExplanation",
                "explanation": record.text,
                "scored_simulation": {
                    "dataclass_name": "ScoredSimulation",
                    "scored_sequence_simulations": [],
                    "ev_correlation_score": simulated[0] if simulated else None,
                },
            }
            result = {
                "dataclass_name": "NeuronSimulationResults",
                "neuron_id": _neuron_id(neuron),
                "scored_explanations": [explained],
            }
            path = to / "explanations" / describer / str(neuron.layer) / f"{neuron.index}.jsonl"
            _write(path, _json(result) + "\n")
    for neuron in content.neurons if content.exemplars else []:
        records_of: dict[Source, list[Any]] = {source: [] for source in Source}
        for item in _few(content.windows(neuron)):
            activations = [round(value, _DECIMALS) for value in item.activations]
            records_of[item.source].append(
                {"dataclass_name": "ActivationRecord", "tokens": list(item.tokens), "activations": activations}
            )
        whole = {
            "dataclass_name": "NeuronRecord",
            "neuron_id": _neuron_id(neuron),
            "random_sample": records_of[Source.RANDOM],
            "random_sample_by_quantile": [records_of[Source.QUANTILE]],
            "most_positive_activation_records": records_of[Source.TOP],
        }
        _write(to / "neurons" / str(neuron.layer) / f"{neuron.index}.json", _json(whole))


def _neuron_id(neuron: Neuron) -> dict[str, Any]:
    return {"dataclass_name": "NeuronId", "layer_index": neuron.layer, "neuron_index": neuron.index}


def _neuronpedia(content: Content, to: Path) -> None:
    """Write the layout of Neuronpedia's exports for each layer, and the feature JSON of SAEDashboard."""
    layers: dict[int, list[Neuron]] = defaultdict(list)
    for neuron in content.neurons:
        layers[neuron.layer].append(neuron)
    for layer, neurons in layers.items():
        folder = to / content.model / content.source(layer)
        for name, row in _about(content, layer).items():
            _write(folder / f"{name}.jsonl", _json(row) + "\n")
        dashboards: list[dict[str, Any]] = []
        features: list[dict[str, Any]] = []
        activations: list[dict[str, Any]] = []
        for neuron in neurons:
            every = content.windows(neuron)
            windows = _few(every)
            dashboard = _dashboard(content, neuron, every)
            dashboards.append(dashboard)
            features.append(_feature(content, neuron, dashboard, windows))
            activations += _activations(content, neuron, windows)
        _write_lines(folder / "features" / "batch-0.jsonl.gz", features)
        _write_lines(folder / "activations" / "batch-0.jsonl.gz", activations)
        _write_lines(folder / "explanations" / "batch-0.jsonl.gz", _explanations(content, neurons))
        batch = {
            "model_id": content.model,
            "layer": layer,
            "sae_set": content.source_set(layer),
            "features": dashboards,
        }
        _write(folder / "saedashboard" / "batch-0.json", _json(batch))


def _about(content: Content, layer: int) -> dict[str, dict[str, Any]]:
    """Return the rows about the model, its layer and this run, by file."""
    subject, corpus = content.manifest["subject"], content.manifest.get("corpus") or {}
    name, made, source_set = str(content.manifest.get("name")), _made(content), content.source_set(layer)
    return {
        "release": {
            "name": content.model + "-neuron-harness",
            "description": f"neuron-harness run {name}",
            "creatorName": "neuron-harness",
            "visibility": "PUBLIC",
            **made,
        },
        "model": {
            "id": content.model,
            "displayName": str(subject["name"]),
            "displayNameShort": str(subject["name"]),
            "layers": subject.get("layers", 0),
            "neuronsPerLayer": subject.get("d_mlp", 0),
            "dimension": subject.get("d_model"),
            "instruct": False,
            "owner": "",
            **made,
        },
        "sourceset": {
            "modelId": content.model,
            "name": source_set,
            "description": "MLP neurons" if source_set == _SET else "latents of a dictionary",
            "type": "neurons" if source_set == _SET else "sae",
            "creatorName": "neuron-harness",
            "releaseName": content.model + "-neuron-harness",
            "visibility": "PUBLIC",
            **made,
        },
        "source": {
            "id": content.source(layer),
            "modelId": content.model,
            "setName": source_set,
            "dataset": corpus.get("name"),
            "num_prompts": corpus.get("windows"),
            "visibility": "PUBLIC",
            **made,
        },
    }


def _made(content: Content) -> dict[str, Any]:
    return {"creatorId": _CREATOR, "createdAt": content.manifest.get("created")}


def _dashboard(content: Content, neuron: Neuron, windows: list[Exemplar]) -> dict[str, Any]:
    """Return the fields of SAEDashboard's feature; tables about dictionaries are empty."""
    vector, corpus = content.vectors.get(neuron), content.manifest.get("corpus") or {}
    random = np.concatenate(
        [[], *(item.activations for item in windows if item.source is Source.RANDOM)], dtype=np.float64
    )
    positive = random[random > 0]
    heights, edges = np.histogram(positive, _BARS) if len(positive) else (np.zeros(0), np.zeros(1))
    ends = {"pos": vector.positive if vector else (), "neg": vector.negative if vector else ()}
    return {
        "feature_index": neuron.index,
        **{f"neuron_alignment_{name}": [] for name in ("indices", "values", "l1")},
        **{f"correlated_{of}_{name}": [] for of in ("neurons", "features") for name in ("indices", "l1", "pearson")},
        **{f"{end}_str": [token.token for token in tokens] for end, tokens in ends.items()},
        **{f"{end}_values": [round(token.z, 3) for token in tokens] for end, tokens in ends.items()},
        "frac_nonzero": float(len(positive) / len(random)) if len(random) else 0.0,
        "freq_hist_data_bar_values": [round(float(value), 3) for value in (edges[:-1] + edges[1:]) / 2],
        "freq_hist_data_bar_heights": [int(height) for height in heights],
        "logits_hist_data_bar_heights": [],
        "logits_hist_data_bar_values": [],
        "n_prompts_total": corpus.get("windows") or 0,
        "n_tokens_in_prompt": max((len(item.tokens) for item in windows), default=0),
        "dataset": str(corpus.get("name") or ""),
        "decoder_weights_dist": [],
        "activations": [
            {
                **_bins(item, windows, "bin_min", "bin_max", "bin_contains"),
                "qualifying_token_index": item.peak,
                "tokens": list(item.tokens),
                "values": [round(value, _DECIMALS) for value in item.activations],
            }
            for item in _few(windows)
        ],
    }


def _few(windows: list[Exemplar]) -> list[Exemplar]:
    """Return the windows with at most ``_RANDOM`` random ones: a run keeps many more than a viewer shows."""
    random = [item for item in windows if item.source is Source.RANDOM]
    return [item for item in windows if item.source is not Source.RANDOM] + random[:_RANDOM]


def _bins(item: Exemplar, windows: list[Exemplar], low: str, high: str, share: str) -> dict[str, float]:
    """Return the interval of a window's activation, with the marks of SAEDashboard: -1 for the highest ones."""
    peaks = [other.activation for other in windows if other.source is item.source]
    top = item.source is Source.TOP
    return {low: -1 if top else round(min(peaks), 3), high: round(max(peaks), 3), share: -1}


def _feature(content: Content, neuron: Neuron, dashboard: Mapping[str, Any], windows: list[Exemplar]) -> dict[str, Any]:
    """Return the row of ``features``: SAEDashboard's statistics under Neuronpedia's names."""
    hooks = content.hook(neuron)
    beyond = {"feature_index", "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations"}
    return {
        **_place(content, neuron),
        **_made(content),
        "sourceSetName": content.source_set(neuron.layer),
        "maxActApprox": round(max((item.activation for item in windows), default=0.0), _DECIMALS),
        "hasVector": False,
        "vector": [],
        "hookName": hooks and hooks[0],
        **{name: value for name, value in dashboard.items() if name not in beyond},
    }


def _activations(content: Content, neuron: Neuron, windows: list[Exemplar]) -> Iterator[dict[str, Any]]:
    for item in windows:
        values = [round(value, _DECIMALS) for value in item.activations]
        yield {
            "id": _id(content.model, str(neuron), item.split, item.source, item.window),
            **_place(content, neuron),
            **_made(content),
            "tokens": list(item.tokens),
            "values": values,
            "maxValue": max(values),
            "maxValueTokenIndex": item.peak,
            "minValue": min(values),
            "dataSource": item.source.value,
            "dataIndex": item.document,
            "qualifyingTokenIndex": item.peak,
            **_bins(item, windows, "binMin", "binMax", "binContains"),
        }


def _explanations(content: Content, neurons: Iterable[Neuron]) -> Iterator[dict[str, Any]]:
    contestants = content.manifest.get("contestants", {})
    for neuron in neurons:
        for describer, records in content.descriptions.items():
            if neuron not in records:
                continue
            models = (contestants.get(describer) or {}).get("models") or []
            yield {
                "id": _id(content.model, str(neuron), describer),
                **_place(content, neuron),
                "description": records[neuron].text,
                "authorId": _CREATOR,
                "typeName": describer,
                "explanationModelName": ", ".join(models) or None,
                "createdAt": content.manifest.get("created"),
                "scores": [
                    {"explanationScoreTypeName": one.scorer, "value": one.value}
                    for one in content.scores[neuron, describer]
                ],
            }


def _place(content: Content, neuron: Neuron) -> dict[str, str]:
    return {"modelId": content.model, "layer": content.source(neuron.layer), "index": str(neuron.index)}


def _id(*parts: object) -> str:
    """Return an id of the length of Neuronpedia's, the same for the same record."""
    return "c" + hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:24]


def _json(value: Any) -> str:
    """Return strict JSON; unpaired surrogates, which UTF-8 cannot hold, become U+FFFD."""
    return json.dumps(encodable(value), ensure_ascii=False, allow_nan=False)


def _write(path: Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    # No name and no time in the header: equal rows give equal bytes.
    with replacing(path) as aside, aside.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for row in rows:
            file.write(f"{_json(dict(row))}\n".encode())
