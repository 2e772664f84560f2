"""The tables of an exported run: flat rows with a fixed schema, one for each record, failures among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from harness.folder import RunFolder
from harness.records import Channel, Description, Exemplar, Neuron, Score, ScoredToken, Verdict, Vote, Winner

Row = dict[str, Any]
_NEURON = [
    ("neuron", pa.string()),
    ("layer", pa.int32()),
    ("index", pa.int32()),
    ("expert", pa.int32()),
    ("sign", pa.string()),
]
_USAGE = [
    ("calls", pa.int64()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("seconds", pa.float64()),
]
_ROLE = [
    *(("role", pa.string()), ("calls", pa.int64()), ("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())),
    *(("seconds", pa.float64()), ("cost", pa.float64())),
    *((f"cached_{name}", pa.int64()) for name in ("calls", "prompt_tokens", "completion_tokens")),
    ("paid", pa.float64()),
]
_USAGE_COLUMNS = [*_USAGE, ("roles", pa.list_(pa.struct(_ROLE)))]
_VOTE = [
    *((name, pa.string()) for name in ("judge", "winner", "status", "detail")),
    *(("preference", pa.float64()), ("mass", pa.float64())),
]
_TOKENS = [
    (name, pa.list_(kind))
    for end in ("positive", "negative")
    for name, kind in ((f"{end}_tokens", pa.string()), (f"{end}_z", pa.float32()))
]
SCHEMAS: dict[str, pa.Schema] = {
    "descriptions": pa.schema(
        [
            *_NEURON,
            ("describer", pa.string()),
            ("control", pa.bool_()),
            ("description", pa.string()),
            ("status", pa.string()),
            ("detail", pa.string()),
            ("parts", pa.list_(pa.string())),
            ("evidence_windows", pa.int64()),
            ("evidence_tokens", pa.int64()),
            *_USAGE_COLUMNS,
        ]
    ),
    "verdicts": pa.schema(
        [
            *_NEURON,
            ("judge", pa.string()),
            ("side", pa.string()),
            ("first", pa.string()),
            ("second", pa.string()),
            ("symmetric", pa.bool_()),
            ("winner", pa.string()),
            ("preferred", pa.string()),
            ("status", pa.string()),
            ("detail", pa.string()),
            ("preference", pa.float64()),
            ("mass", pa.float64()),
            ("votes", pa.list_(pa.struct(_VOTE))),
            *_USAGE_COLUMNS,
        ]
    ),
    "scores": pa.schema(
        [
            *_NEURON,
            ("scorer", pa.string()),
            ("describer", pa.string()),
            ("value", pa.float64()),
            ("status", pa.string()),
            ("detail", pa.string()),
            ("metrics", pa.list_(pa.struct([("name", pa.string()), ("value", pa.float64())]))),
            *_USAGE_COLUMNS,
        ]
    ),
    "channels": pa.schema(
        [
            *_NEURON[:-1],
            ("kind", pa.string()),
            ("rank", pa.int32()),
            ("kurtosis", pa.float64()),
            ("skewness", pa.float64()),
            ("cosine", pa.float64()),
            ("loss", pa.float64()),
            ("masked_tokens", pa.int64()),
            *_TOKENS,
        ]
    ),
    "exemplars": pa.schema(
        [
            *_NEURON,
            ("split", pa.string()),
            ("source", pa.string()),
            ("document", pa.string()),
            ("window", pa.int64()),
            ("tokens", pa.list_(pa.string())),
            ("activations", pa.list_(pa.float32())),
        ]
    ),
}
SCHEMAS |= {"verdicts_again": SCHEMAS["verdicts"], "scores_again": SCHEMAS["scores"]}
COLUMNS = {
    "descriptions": "One row for each neuron and describer. `description` is empty where `status` is not ok; `detail` "
    "then says why. `parts` are intermediate results, such as one description per channel.",
    "verdicts": "One row for each neuron, judge and order of two descriptions. `winner` is first, second or tie, "
    "`preferred` the describer that won, null on a tie; both are null where `status` is not ok. `detail` is the "
    "judge's reason, `votes` what each member of a panel said.",
    "scores": "One row for each neuron, scorer and describer. `value`: higher is better; null unless `status` is ok.",
    "verdicts_again": "What judges said who were asked again with another seed, as verdicts.",
    "scores_again": "What scorers said who were asked again with another seed, as scores.",
    "channels": "One row for each vocabulary channel, by neuron, weight vector (`kind`) and place (`rank`): "
    "excess kurtosis of its projection on the vocabulary, cosine to the weight vector, and the tokens at both ends of "
    "the projection with their z-scores. Where skewness is negative, the negative end carries the channel.",
    "exemplars": "One row for each neuron and window of text, with the activation at every token.",
}


def rows_of(table: str, folder: RunFolder, controls: Collection[str]) -> Iterator[list[Row]]:
    """Yield a table's rows, in portions that fit into memory and in the order of neurons.

    Args:
        table: one of the names in :data:`SCHEMAS`.
        folder: the run.
        controls: names of the describers that are controls.
    """
    if table == "descriptions":
        described = sorted(folder.descriptions().records(), key=lambda item: (item.neuron, item.describer))
        yield [_description(record, record.describer in controls) for record in described]
    elif table == "verdicts":
        yield [_verdict(record) for record in sorted(folder.verdicts().records(), key=_verdict_place)]
    elif table == "verdicts_again":
        yield [_verdict(record) for record in sorted(folder.retests().records(), key=_verdict_place)]
    elif table == "scores":
        yield [_score(record) for record in sorted(folder.scores().records(), key=_score_place)]
    elif table == "scores_again":
        yield [_score(record) for record in sorted(folder.score_retests().records(), key=_score_place)]
    elif table == "channels":
        for block in folder.read_channel_blocks():
            yield [_channel(record) for record in block]
    else:
        exemplars = folder.exemplar_table()
        for neuron in [] if exemplars is None else sorted(exemplars.neurons):
            yield [_exemplar(record) for record in folder.read_exemplars([neuron])]


def precomputed_rows(folder: RunFolder) -> Iterable[Row]:
    """Return the descriptions as ``describers=[precomputed]`` reads them with its default columns.

    Those that failed are there with an empty text, which describes nothing.
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


def _verdict_place(record: Verdict) -> tuple[Neuron, str, str, str]:
    return record.neuron, record.judge, record.first, record.second


def _score_place(record: Score) -> tuple[Neuron, str, str]:
    return record.neuron, record.scorer, record.describer


def _neuron(neuron: Neuron) -> Row:
    return {
        "neuron": str(neuron),
        "layer": neuron.layer,
        "index": neuron.index,
        "expert": neuron.expert,
        "sign": neuron.sign.value,
    }


def _usage(record: Description | Verdict | Score) -> Row:
    roles = [{"role": role, **dataclasses.asdict(used)} for role, used in sorted(record.usage.roles.items())]
    return {**{name: getattr(record.usage, name) for name, _ in _USAGE}, "roles": roles}


def _description(record: Description, control: bool) -> Row:
    return {
        **_neuron(record.neuron),
        "describer": record.describer,
        "control": control,
        "description": record.text,
        "status": record.status.value,
        "detail": record.detail,
        "parts": list(record.parts),
        "evidence_windows": record.evidence.windows,
        "evidence_tokens": record.evidence.tokens,
        **_usage(record),
    }


def _verdict(record: Verdict) -> Row:
    preferred = {Winner.FIRST: record.first, Winner.SECOND: record.second, Winner.TIE: None, None: None}
    return {
        **_neuron(record.neuron),
        "judge": record.judge,
        "side": record.side,
        "first": record.first,
        "second": record.second,
        "symmetric": record.symmetric,
        "winner": record.winner,
        "preferred": preferred[record.winner],
        "status": record.status.value,
        "detail": record.reason,
        "preference": record.preference,
        "mass": record.mass,
        "votes": [_vote(vote) for vote in record.votes],
        **_usage(record),
    }


def _vote(vote: Vote) -> Row:
    plain = {name: getattr(vote, name) for name in ("judge", "winner", "preference", "mass")}
    return {**plain, "status": vote.status.value, "detail": vote.reason}


def _score(record: Score) -> Row:
    return {
        **_neuron(record.neuron),
        "scorer": record.scorer,
        "describer": record.describer,
        "value": record.value,
        "status": record.status.value,
        "detail": record.detail,
        "metrics": [{"name": name, "value": value} for name, value in sorted(record.metrics.items())],
        **_usage(record),
    }


def _channel(record: Channel) -> Row:
    plain: Mapping[str, Any] = vars(record)
    ends = {**_ends("positive", record.positive), **_ends("negative", record.negative)}
    figures = ("kurtosis", "skewness", "cosine", "loss", "masked_tokens")
    return {
        **{name: value for name, value in _neuron(record.neuron).items() if name != "sign"},
        "kind": record.kind.value,
        "rank": record.rank,
        **{name: plain[name] for name in figures},
        **ends,
    }


def _ends(end: str, tokens: Iterable[ScoredToken]) -> Row:
    found = [dataclasses.astuple(token) for token in tokens]
    return {f"{end}_tokens": [token for token, _ in found], f"{end}_z": [z for _, z in found]}


def _exemplar(record: Exemplar) -> Row:
    return {
        **_neuron(record.neuron),
        "split": record.split.value,
        "source": record.source.value,
        "document": record.document,
        "window": record.window,
        "tokens": list(record.tokens),
        "activations": list(record.activations),
    }
