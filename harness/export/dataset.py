"""Write a run as a local data set folder, and upload it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

import harness
from harness.errors import HarnessError
from harness.export.tables import TABLES, Table, precomputed_rows
from harness.folder import RunFolder, encodable, replacing, write_json
from harness.report.notes import count_neurons, neurons_of, summary
from harness.results.run_data import RunData, load_run
from harness.results.tables import markdown_table

CARD, PRECOMPUTED, MANIFEST, LEADERBOARD = "README.md", "precomputed.jsonl", "manifest.json", "leaderboard.json"
FILES = {CARD, PRECOMPUTED, MANIFEST, LEADERBOARD, *(f"{name}.parquet" for name in TABLES)}


def export_run(
    run: RunFolder, to: Path, *, exemplars: bool = False, directions: bool = False, licence: str = "other"
) -> Path:
    """Write a run's records as a data set folder. Equal run folders give equal bytes.

    Args:
        run: the run folder.
        to: the folder to write; an earlier export in it is replaced.
        exemplars: whether to include the windows of text. The licence of the corpus applies to them.
        directions: whether to include the directions of the channels.
        licence: licence identifier for the card.

    Returns:
        The folder.

    Raises:
        HarnessError: if ``run`` is not a run folder or has no records, or ``to`` has files of other origin.
    """
    data = load_run(run)
    other_files = sorted(path.name for path in to.iterdir() if path.name not in FILES) if to.is_dir() else []
    if other_files or (to.exists() and not to.is_dir()):
        problem = f"contains {other_files[0]}, which is not part of an export" if other_files else "is not a folder"
        raise HarnessError(f"{to} {problem}: choose another folder with --to")
    if exemplars and not run.exemplars.exists():
        raise HarnessError(f"{run.path} has no exemplars: remove --exemplars")
    if directions and not (run.blocks() and run.keeps_directions):
        raise HarnessError(f"{run.path} does not keep the directions of its channels: remove --directions")
    left_out = ["exemplars", "windows"] * (not exemplars) + ["directions"] * (not directions)
    controls = {name for name, entry in data.part("contestants").items() if entry.get("control")}
    try:
        counts = {}
        for name, table in TABLES.items():
            if name not in left_out and (count := _write(table, to / f"{name}.parquet", run, controls)):
                counts[name] = count
        if not counts:
            raise HarnessError(f"{run.path} has no records yet: finish the run first")
        written = {CARD, MANIFEST, *(f"{name}.parquet" for name in counts)}
        if "descriptions" in counts:
            # ASCII escapes keep unpaired surrogates.
            with replacing(to / PRECOMPUTED) as temporary, temporary.open("w", encoding="ascii") as file:
                file.writelines(json.dumps(row) + "\n" for row in precomputed_rows(run))
            written |= {PRECOMPUTED, LEADERBOARD}
            write_json(to / LEADERBOARD, data.leaderboard.to_json())
        write_json(to / MANIFEST, data.manifest)
        with replacing(to / CARD) as temporary:
            _card(data, counts, licence).save(temporary)
    except OSError as error:
        raise HarnessError(f"{to} cannot be written: {error.strerror or error}") from error
    for name in FILES - written:  # for example exemplars of an earlier export
        (to / name).unlink(missing_ok=True)
    return to


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub and return its address.

    Args:
        folder: the folder written by :func:`export_run`.
        name: name of the data set, USER/NAME; it is created if it does not exist.
        private: whether a new data set is private.

    Raises:
        HarnessError: if the upload fails.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=name,
            repo_type="dataset",
            allow_patterns=sorted(FILES),
            delete_patterns=sorted(FILES - {CARD}),  # files of an earlier export
            commit_message=f"Export of a run of neuron-harness {harness.__version__}",
        )
    except Exception as error:  # the classes depend on the HTTP library
        reason = " ".join(str(error).split())[:300]
        raise HarnessError(
            f"{name} could not be pushed ({reason}); the export is in {folder}. Does HF_TOKEN have write access?"
        ) from error
    return str(address)


def _write(table: Table, path: Path, run: RunFolder, controls: set[str]) -> int:
    """Write one table in batches and return its number of rows; an empty table leaves no file."""
    schema, count = table.features.arrow_schema, 0
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for rows in table.rows(run, controls):
            count += len(rows)
            try:
                batch = pa.Table.from_pylist(rows, schema)
            except UnicodeEncodeError:  # unpaired surrogates, which parquet cannot store
                batch = pa.Table.from_pylist([encodable(row) for row in rows], schema)
            writer.write_table(batch)
    if not count:
        path.unlink()
    return count


def _card(data: RunData, counts: Mapping[str, int], licence: str) -> DatasetCard:
    header = DatasetCardData(
        license=licence,
        pretty_name=_printable(data.name)[:200],
        tags=["interpretability", "neurons", "neuron-harness"],
        configs=[
            {"config_name": name, "data_files": f"{name}.parquet", **({"default": True} if index == 0 else {})}
            for index, name in enumerate(counts)
        ],
    )
    # This name is shown inside a code block, where nothing can be escaped.
    rows = data.leaderboard.overall.rows
    names = [row.describer for row in rows if not row.control and re.fullmatch(r"[\w.-]+", row.describer)]
    card: DatasetCard = DatasetCard.from_template(
        header,
        template_path=str(Path(__file__).with_name("card.md.j2")),
        plain=plain_markdown,
        name=data.name,
        version=str(data.part("versions").get("neuron-harness", harness.__version__)),
        summary=summary(data),
        compared=bool(data.leaderboard.judges),
        leaderboard=markdown_table(data.leaderboard) if rows else "",
        tables=[{"name": name, "rows": count, "about": TABLES[name].about} for name, count in counts.items()],
        precomputed=(names or ["NAME"])[0] if "descriptions" in counts else "",
        facts=list(_facts(data)),
        exemplars="exemplars" in counts,
    )
    return card


def _facts(data: RunData) -> Any:
    subject, corpus = data.part("subject"), data.part("corpus")
    parts = [subject.get("name"), subject.get("reference"), subject.get("revision")]
    yield "subject", ", ".join(dict.fromkeys(str(part) for part in parts if part)) or "not known"
    if corpus:
        yield "corpus", f"{corpus.get('name')} ({corpus.get('documents')} documents, {corpus.get('tokens')} tokens)"
    yield "neurons", count_neurons(data.compared) if data.compares else str(neurons_of(data))
    for name, entry in data.part("contestants").items():
        models = f", by {', '.join(entry['models'])}" if entry.get("models") else ""
        yield f"describer {name}", f"{entry.get('mode')}{' (control)' if entry.get('control') else ''}{models}"
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
    """Return text on one line, escaped so that Markdown and HTML show it literally."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", _printable(str(text)))


def _printable(text: str) -> str:
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
