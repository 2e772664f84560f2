"""Tables of an exported run: one flat row per record, including failed ones."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from datasets import Features, List, Value

from harness.folder import Journal, RunFolder
from harness.records import Channel, Description, Exemplar, Neuron, Score, ScoredToken, Verdict, Winner
from harness.subject.architecture import hook_names

Row = dict[str, Any]
Rows = Callable[[RunFolder, Collection[str]], Iterator[list[Row]]]

_TEXT, _BOOL, _INT, _INT32 = Value("string"), Value("bool"), Value("int64"), Value("int32")
_FLOAT, _FLOAT32 = Value("float64"), Value("float32")
_NEURON = {"neuron": _TEXT, "layer": _INT32, "index": _INT32, "expert": _INT32, "sign": _TEXT}
_STATUS = {"status": _TEXT, "detail": _TEXT}
_TOKENS = {"calls": _INT, "prompt_tokens": _INT, "completion_tokens": _INT}
_ROLE = (
    {"role": _TEXT}
    | _TOKENS
    | {"seconds": _FLOAT, "cost": _FLOAT}
    | {f"cached_{name}": kind for name, kind in _TOKENS.items()}
    | {"paid": _FLOAT}
)
_USAGE = _TOKENS | {"seconds": _FLOAT, "roles": List(_ROLE)}
_SOFT = {"preference": _FLOAT, "mass": _FLOAT}
_PART = {"text": _TEXT, "weight": _FLOAT, "role": _TEXT}
_DESCRIPTION = (
    _NEURON
    | {"describer": _TEXT, "control": _BOOL, "description": _TEXT}
    | _STATUS
    | {"parts": List(_PART), "steps": List(_TEXT), "evidence_windows": _INT, "evidence_tokens": _INT}
    | _USAGE
)
_VERDICT = (
    _NEURON
    | {"judge": _TEXT, "side": _TEXT, "first": _TEXT, "second": _TEXT, "symmetric": _BOOL}
    | {"winner": _TEXT, "preferred": _TEXT}
    | _STATUS
    | _SOFT
    | {"votes": List({"judge": _TEXT, "winner": _TEXT} | _STATUS | _SOFT)}
    | _USAGE
)
_SCORE = (
    _NEURON
    | {"scorer": _TEXT, "describer": _TEXT, "value": _FLOAT}
    | _STATUS
    | {"metrics": List({"name": _TEXT, "value": _FLOAT})}
    | _USAGE
)
_CHANNEL = (
    {name: kind for name, kind in _NEURON.items() if name != "sign"}
    | {"kind": _TEXT, "rank": _INT32, "kurtosis": _FLOAT, "skewness": _FLOAT, "cosine": _FLOAT, "loss": _FLOAT}
    | {"masked_tokens": _INT, "positive_tokens": List(_TEXT), "positive_z": List(_FLOAT32)}
    | {"negative_tokens": List(_TEXT), "negative_z": List(_FLOAT32)}
)
_EXEMPLAR = (
    _NEURON
    | {"split": _TEXT, "source": _TEXT, "document": _TEXT, "window": _INT}
    | {"tokens": List(_TEXT), "activations": List(_FLOAT32)}
)
_WINDOW = {"window": _INT, "document": _TEXT, "token_ids": List(_INT32)}
_NAMES = _NEURON | {"id": _TEXT, "transformer_lens": _TEXT, "transformers": _TEXT}
_DIRECTION = {
    **{name: kind for name, kind in _NEURON.items() if name != "sign"},
    **{"kind": _TEXT, "rank": _INT32, "direction": List(_FLOAT32)},
}


@dataclass(frozen=True)
class Table:
    """One table of the data set.

    Attributes:
        about: its description in the card.
        features: its columns.
        rows: yields its rows from a run folder and the names of the controls, ordered by neuron, in batches that fit
            into memory. Keys that are not columns are ignored.
    """

    about: str
    features: Features
    rows: Rows


def precomputed_rows(folder: RunFolder) -> Iterable[Row]:
    """Return the descriptions in the format that ``describers=[precomputed]`` reads with its default columns.

    Failed descriptions have an empty text.
    """
    for record in sorted(folder.descriptions().records(), key=lambda item: (item.describer, item.neuron)):
        yield {
            "layer": record.neuron.layer,
            "neuron": record.neuron.index,
            "expert": record.neuron.expert,
            "sign": record.neuron.sign.value,
            "describer": record.describer,
            "description": record.text,
            "status": record.status.value,
            "detail": record.detail,
        }


def _journal(read: Callable[[RunFolder], Journal[Any]], row: Callable[[Any], Row], *order: str) -> Rows:
    """Return a function that yields the rows of a journal in one batch, ordered by neuron and these attributes."""

    def rows(folder: RunFolder, controls: Collection[str]) -> Iterator[list[Row]]:
        records = sorted(read(folder).records(), key=operator.attrgetter("neuron", *order))
        yield [row(record) | {"control": getattr(record, "describer", "") in controls} for record in records]

    return rows


def _channels(folder: RunFolder, _controls: Collection[str]) -> Iterator[list[Row]]:
    for block in folder.read_channel_blocks():
        yield [_channel(record) for record in block]


def _exemplars(folder: RunFolder, _controls: Collection[str]) -> Iterator[list[Row]]:
    table = folder.exemplar_table()
    for neuron in [] if table is None else sorted(table.neurons):
        yield [_row(record) for record in folder.read_exemplars([neuron])]


def _windows(folder: RunFolder, _controls: Collection[str]) -> Iterator[list[Row]]:
    if folder.windows.exists():
        with pq.ParquetFile(folder.windows) as table:
            yield from (batch.to_pylist() for batch in table.iter_batches())


def _names(folder: RunFolder, _controls: Collection[str]) -> Iterator[list[Row]]:
    manifest = folder.read_manifest()
    subject = manifest.get("subject", {})
    rows = []
    for neuron in sorted(map(Neuron.named, manifest.get("neurons", []))):
        hooks = hook_names(manifest, neuron) or (None, None)
        place = f"{subject.get('name')}@{neuron.layer}:{neuron.index}"
        names = {"id": place if neuron.expert is None else None, "transformer_lens": hooks[0], "transformers": hooks[1]}
        rows.append({**dataclasses.asdict(neuron), "neuron": str(neuron), **names})
    yield rows


def _directions(folder: RunFolder, _controls: Collection[str]) -> Iterator[list[Row]]:
    for keys, directions in folder.read_directions():
        for (neuron, kind), found in zip(keys, directions, strict=True):
            named = {**dataclasses.asdict(neuron), "neuron": str(neuron), "kind": kind.value}
            yield [{**named, "rank": rank, "direction": row} for rank, row in enumerate(found.float().tolist())]


def _row(record: Description | Verdict | Score | Channel | Exemplar) -> Row:
    named = {item.name: getattr(record, item.name) for item in dataclasses.fields(record)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    return {**values, **dataclasses.asdict(record.neuron), "neuron": str(record.neuron)}


def _usage(record: Description | Verdict | Score) -> Row:
    roles = [{"role": role, **dataclasses.asdict(used)} for role, used in sorted(record.usage.roles.items())]
    return {**vars(record.usage), "roles": roles}


def _description(record: Description) -> Row:
    evidence = {"evidence_windows": record.evidence.windows, "evidence_tokens": record.evidence.tokens}
    parts = [{"text": part.text, "weight": part.weight, "role": part.role} for part in record.parts]
    return {**_row(record), "description": record.text, "parts": parts, **evidence, **_usage(record)}


def _verdict(record: Verdict) -> Row:
    preferred = {Winner.FIRST: record.first, Winner.SECOND: record.second, Winner.TIE: None, None: None}
    votes = [{**vars(vote), "detail": vote.reason} for vote in record.votes]
    changed = {"preferred": preferred[record.winner], "detail": record.reason, "votes": votes}
    return {**_row(record), **changed, **_usage(record)}


def _score(record: Score) -> Row:
    metrics = [{"name": name, "value": value} for name, value in sorted(record.metrics.items())]
    return {**_row(record), "metrics": metrics, **_usage(record)}


def _channel(record: Channel) -> Row:
    return {**_row(record), **_ends("positive", record.positive), **_ends("negative", record.negative)}


def _ends(end: str, tokens: Iterable[ScoredToken]) -> Row:
    listed = list(tokens)
    return {f"{end}_tokens": [token.token for token in listed], f"{end}_z": [token.z for token in listed]}


TABLES = {
    "descriptions": Table(
        "One row per neuron and describer. `description` is empty unless `status` is ok; `detail` gives the reason. "
        "`parts` are the descriptions of a set; `steps` are intermediate results, such as one description per channel.",
        Features(_DESCRIPTION),
        _journal(RunFolder.descriptions, _description, "describer"),
    ),
    "verdicts": Table(
        "One row per neuron, judge and order of two descriptions. `winner` is first, second or tie; `preferred` is the "
        "describer that won, null for a tie. Both are null unless `status` is ok. `detail` is the judge's reason, "
        "`votes` are the answers of a panel's members.",
        Features(_VERDICT),
        _journal(RunFolder.verdicts, _verdict, "judge", "first", "second"),
    ),
    "scores": Table(
        "One row per neuron, scorer and describer. `value`: higher is better; null unless `status` is ok.",
        Features(_SCORE),
        _journal(RunFolder.scores, _score, "scorer", "describer"),
    ),
    "channels": Table(
        "One row per vocabulary channel, by neuron, weight vector (`kind`) and order of discovery (`rank`): excess "
        "kurtosis of its vocabulary projection, cosine with the weight vector, and the tokens at both ends of the "
        "projection with their z-scores. If skewness is negative, the tokens of the channel are the negative ones.",
        Features(_CHANNEL),
        _channels,
    ),
    "exemplars": Table(
        "One row per neuron and window of text, with the activation of every token.", Features(_EXEMPLAR), _exemplars
    ),
    "windows": Table(
        "One row per window of text in `exemplars`: the ids of its tokens, without the special tokens that the "
        "tokenizer adds. A program that adds those and runs the model gets the activations again.",
        Features(_WINDOW),
        _windows,
    ),
    "neurons": Table(
        "One row per described neuron: its name in other programs. `id` is MODEL@LAYER:INDEX; `transformer_lens` is "
        "the hook with its activation, `transformers` the module whose input has it. Null if there is no such name.",
        Features(_NAMES),
        _names,
    ),
    "directions": Table(
        "One row per channel: its direction in the residual stream, of the length of the weight vector.",
        Features(_DIRECTION),
        _directions,
    ),
    "verdicts_again": Table(
        "Verdicts that were asked again with another seed.",
        Features(_VERDICT),
        _journal(RunFolder.retests, _verdict, "judge", "first", "second"),
    ),
    "scores_again": Table(
        "Scores that were asked again with another seed.",
        Features(_SCORE),
        _journal(RunFolder.score_retests, _score, "scorer", "describer"),
    ),
}
