"""Writing a run as a local dataset folder, and uploading it on request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCardData, HfApi

import harness
from harness.errors import HarnessError
from harness.export.tables import COLUMNS, SCHEMAS, Row, precomputed_rows, rows_of
from harness.folder import RunFolder, encodable, replacing, write_json
from harness.report.notes import count_neurons, neurons_of, summary
from harness.results.run_data import RunData, load_run
from harness.results.tables import markdown_table

CARD, PRECOMPUTED, MANIFEST, LEADERBOARD = "README.md", "precomputed.jsonl", "manifest.json", "leaderboard.json"
OURS = {CARD, PRECOMPUTED, MANIFEST, LEADERBOARD, *(f"{name}.parquet" for name in SCHEMAS)}


def export_run(run: RunFolder, to: Path, *, exemplars: bool = False, licence: str = "other") -> Path:
    """Write a run's records as a dataset folder. Equal run folders make equal bytes.

    Args:
        run: the run folder.
        to: the folder to write; what an earlier export left there is replaced.
        exemplars: whether the windows of text go with it. They are the corpus's, and so is their licence.
        licence: identifier of the licence that the card names.

    Returns:
        The folder.

    Raises:
        HarnessError: if this is no run folder, there is nothing to export, or the folder holds anything else.
    """
    data = load_run(run)
    strangers = sorted(path.name for path in to.iterdir() if path.name not in OURS) if to.is_dir() else []
    if strangers or (to.exists() and not to.is_dir()):
        what = f"holds {strangers[0]}, which is no part of an export" if strangers else "is no folder"
        raise HarnessError(f"{to} {what}: choose another with --to")
    if exemplars and not run.exemplars.exists():
        raise HarnessError(f"{run.path} holds no exemplars: leave --exemplars out")
    controls = {name for name, entry in data.part("contestants").items() if entry.get("control")}
    try:
        counts = {name: _write(name, run, to, controls) for name in SCHEMAS if name != "exemplars" or exemplars}
        counts = {name: count for name, count in counts.items() if count}
        if not counts:
            raise HarnessError(f"{run.path} holds no record yet: finish the run first")
        written = {CARD, MANIFEST, *(f"{name}.parquet" for name in counts)}
        if "descriptions" in counts:
            _write_lines(to / PRECOMPUTED, precomputed_rows(run))
            written |= {PRECOMPUTED, LEADERBOARD}
            write_json(to / LEADERBOARD, data.leaderboard.to_json())
        write_json(to / MANIFEST, data.manifest)
        with replacing(to / CARD) as aside:
            aside.write_text(_card(data, counts, licence), "utf-8", errors="replace")
    except OSError as error:
        raise HarnessError(f"{to} cannot be written: {error.strerror or error}") from error
    for name in OURS - written:  # above all text that is no longer to be given away
        (to / name).unlink(missing_ok=True)
    return to


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub, and return its address.

    Args:
        folder: what :func:`export_run` wrote.
        name: name of the dataset, USER/NAME; it is made if it does not exist.
        private: whether it is made private.

    Raises:
        HarnessError: if the hub refuses or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=name,
            repo_type="dataset",
            allow_patterns=sorted(OURS),
            delete_patterns=sorted(OURS - {CARD}),  # what an earlier export had, and this one has not
            commit_message=f"Export of a run of neuron-harness {harness.__version__}",
        )
    except Exception as error:  # whatever a network does to a client, whose errors vary with the library beneath it
        reason = " ".join(str(error).split())[:300]
        raise HarnessError(
            f"{name} could not be pushed ({reason}); the export is in {folder}. Does HF_TOKEN allow to write?"
        ) from error
    return str(address)


def _write(table: str, run: RunFolder, to: Path, controls: set[str]) -> int:
    """Write one table, portion by portion, and return how many rows it has; none leave no file."""
    path, count = to / f"{table}.parquet", 0
    with replacing(path) as aside, pq.ParquetWriter(aside, SCHEMAS[table], compression="zstd") as writer:
        for rows in rows_of(table, run, controls):
            count += len(rows)
            writer.write_table(_arrow(rows, SCHEMAS[table]))
    if not count:
        path.unlink()
    return count


def _arrow(rows: list[Row], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:  # half a surrogate pair, which parquet cannot hold
        return pa.Table.from_pylist([encodable(row) for row in rows], schema)


def _write_lines(path: Path, rows: Any) -> None:
    with replacing(path) as aside, aside.open("w", encoding="ascii") as file:
        # ASCII, so that half a surrogate pair comes back as what it was.
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _card(data: RunData, counts: Mapping[str, int], licence: str) -> str:
    front = DatasetCardData(
        license=licence,
        pretty_name=_plain_name(data.name),
        tags=["interpretability", "neurons", "neuron-harness"],
        configs=[
            {"config_name": name, "data_files": f"{name}.parquet", **({"default": True} if place == 0 else {})}
            for place, name in enumerate(counts)
        ],
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown: every text of others goes through the filter
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain_markdown
    # It stands inside a block of code, where nothing can be escaped.
    rows = data.leaderboard.overall.rows
    real = [row.describer for row in rows if not row.control and re.fullmatch(r"[\w.-]+", row.describer)]
    return environment.get_template("card.md.j2").render(
        front=front.to_yaml(line_break="\n").strip(),
        name=data.name,
        version=str(data.part("versions").get("neuron-harness", harness.__version__)),
        summary=summary(data),
        compared=bool(data.leaderboard.judges),
        leaderboard=markdown_table(data.leaderboard) if data.leaderboard.overall.rows else "",
        tables=[{"name": name, "rows": count, "about": COLUMNS[name]} for name, count in counts.items()],
        precomputed=(real or ["NAME"])[0] if "descriptions" in counts else "",
        facts=list(_facts(data)),
        exemplars="exemplars" in counts,
    )


def _facts(data: RunData) -> Any:
    subject, corpus = data.part("subject"), data.part("corpus")
    parts = [subject.get("name"), subject.get("reference"), subject.get("revision")]
    yield "subject", ", ".join(dict.fromkeys(str(part) for part in parts if part)) or "not known"
    if corpus:
        yield "corpus", f"{corpus.get('name')} ({corpus.get('documents')} documents, {corpus.get('tokens')} tokens)"
    yield "neurons", count_neurons(data.compared) if data.compares else str(neurons_of(data))
    for name, entry in data.part("contestants").items():
        models = f", by {', '.join(entry['models'])}" if entry.get("models") else ""
        yield f"describer {name}", f"{entry.get('form')}{' (control)' if entry.get('control') else ''}{models}"
    for name, entry in data.part("judges").items():
        models = f" Model: {', '.join(entry['models'])}." if entry.get("models") else ""
        yield f"judge {name}", f"{entry.get('protocol') or entry.get('kind')}{models}"
    for name, reason in data.part("left_out").items():
        yield f"left out {name}", str(reason)
    for role, model in data.part("llm").items():
        if model:
            yield f"LLM {role}", str(model.get("model", model) if isinstance(model, Mapping) else model)
    yield "seed", str(data.manifest.get("seed"))
    yield "commit", str(data.manifest.get("commit") or "a release")


def plain_markdown(text: object) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    visible = "".join(character if character.isprintable() else " " for character in str(text))
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", " ".join(visible.split()))


def _plain_name(name: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in name).split())[:200]
