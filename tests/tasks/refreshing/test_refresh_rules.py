"""What the rules of a domain do to a refresh, and what of it is told and kept."""

import json
import random
from pathlib import Path

import pyarrow.parquet as pq

from storage.local_objects import LocalObjects
from tasks.curate import CurateConfig
from tasks.curation.annotate import judge
from tasks.curation.annotation_table import read_annotations
from tasks.curation.config import DomainRules
from tasks.curation.gopher import GopherRules
from tasks.curation.language import LanguageRules
from tasks.curation.licences import LicenceRules
from tasks.curation.pii import PiiRules
from tasks.paragraphs import ParagraphRules
from tasks.readers import FieldNames
from tasks.who_saw import who_saw
from tests.tasks.refreshing.small_refresh import (
    LAYOUT,
    WORDS,
    head_of,
    manifest_of,
    refresh_once,
    request_for,
    source_in,
    table_of,
    text_of,
    write_documents,
)


def test_annotations_of_all_documents_are_stored_and_other_thresholds_need_no_text(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(data / "code" / "1.jsonl", range(50, 60))
    domains = {"web": DomainRules(gopher=GopherRules(min_words=15, min_stop_words=0))}
    sources = source_in(data / "1.jsonl"), source_in(data / "code", "code")
    request = request_for(*sources, curate=CurateConfig(domains=domains))
    result = refresh_once(store, request, tmp_path / "work")
    manifest = manifest_of(store, result)
    path = store.local_path(f"{LAYOUT.snapshot(manifest.id)}/annotations.parquet")
    assert path is not None
    ids = pq.read_table(path).column("document").to_pylist()
    documents = table_of(store, manifest.id)
    assert ids == [row["document"] for row in documents]
    of_domain, numbers = read_annotations(path)
    assert judge(numbers, of_domain, domains) == [
        row["reason"] if str(row["reason"]).startswith("gopher") else "" for row in documents
    ]
    stricter = {"web": DomainRules(gopher=GopherRules(min_words=10_000))}
    reasons = judge(numbers, of_domain, stricter)
    assert "gopher_quality:too_few_words" in reasons
    assert [not reason for reason in reasons] == [domain == "code" for domain in of_domain]


def test_rules_drop_and_mask_by_domain_and_the_refresh_tells_why(
    store: LocalObjects, tmp_path: Path
) -> None:
    texts = {
        "good": [text_of(n) + " mail jane.doe@corp-mail.org" for n in range(20)],
        "english": ["This is plainly a sentence of the English language, and a long one too."],
    }
    for name, lines in texts.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"text": t}) + "\n" for t in lines)
        )
    sources = [
        source_in(tmp_path / f"{name}.jsonl", name, fields=FieldNames()) for name in sorted(texts)
    ]
    curate = CurateConfig(
        domains={
            "good": DomainRules(pii=PiiRules()),
            "english": DomainRules(language=LanguageRules(allow=("de",))),
        }
    )
    result = refresh_once(store, request_for(*sources, curate=curate), tmp_path / "work")
    assert result.documents_dropped == {"language:not_allowed": 1}
    assert "1 were dropped (language:not_allowed 1)" in result.reason
    assert result.warnings[-1] == "personal data and secrets found: email 20"
    shards = LAYOUT.snapshot(manifest_of(store, result).id)
    for info in store.list(shards):
        assert b"jane.doe" not in store.get(info.key)


def test_rules_that_leave_nothing_of_a_domain_are_told_and_known_text_is_not(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(data / "code" / "1.jsonl", range(50, 90))
    sources = source_in(data / "1.jsonl"), source_in(data / "code", "code")
    strict = CurateConfig(domains={"web": DomainRules(gopher=GopherRules())})
    result = refresh_once(store, request_for(*sources, curate=strict), tmp_path / "work")
    (told,) = (each for each in result.warnings if "were dropped" in each)
    assert told.startswith("domain web: 40 of 40 documents were dropped, most for gopher_")
    # The same texts in another file of the other domain are known, which is as it should be.
    write_documents(data / "code" / "2.jsonl", range(50, 90), note="again")
    again = refresh_once(store, request_for(*sources, curate=strict), tmp_path / "work")
    assert again.documents_dropped == {"duplicate": 40}
    assert not [each for each in again.warnings if "were dropped" in each]


def test_a_text_that_the_rules_changed_is_found_as_it_was_delivered(
    store: LocalObjects, tmp_path: Path
) -> None:
    write_documents(tmp_path / "data" / "1.jsonl", range(40))
    delivered = text_of(99) + " mail jane.doe@corp-mail.org\r\n"
    with (tmp_path / "data" / "1.jsonl").open("a") as file:
        file.write(json.dumps({"text": delivered, "id": "d99"}) + "\n")
    curate = CurateConfig(domains={"*": DomainRules(pii=PiiRules())})
    refresh_once(store, request_for(source_in(tmp_path / "data"), curate=curate), tmp_path / "work")
    work_dir = tmp_path / "asking"
    found = who_saw(store, LAYOUT, [head_of(store)], texts=[delivered], work_dir=work_dir)
    assert [sighting.document for sighting in found] == ["web/d99"]
    assert not who_saw(store, LAYOUT, [head_of(store)], texts=[text_of(99)], work_dir=work_dir)


def test_a_licence_that_is_denied_is_never_trained_on(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    write_documents(tmp_path / "other" / "1.jsonl", range(50, 60))
    curate = CurateConfig(licences={"web": LicenceRules(deny=("cc0-*",))})
    request = request_for(source_in(data), source_in(tmp_path / "other", "other"), curate=curate)
    result = refresh_once(store, request, tmp_path / "work")
    assert result.documents_dropped == {"licence:denied": 40}


def test_without_rules_a_snapshot_has_no_annotations(
    store: LocalObjects, data: Path, tmp_path: Path
) -> None:
    manifest = manifest_of(
        store, refresh_once(store, request_for(source_in(data)), tmp_path / "work")
    )
    assert "annotations.parquet" not in {file.name for file in manifest.files}


def test_a_text_put_together_from_earlier_ones_is_dropped_also_by_a_later_refresh(
    store: LocalObjects, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()

    def line(seed: int) -> str:
        return f"{seed}: " + " ".join(random.Random(seed).choices(WORDS[:-1], k=20))

    texts = ["\n".join(line(10 * n + m) for m in range(4)) for n in range(12)]
    mixed = "\n".join(text.split("\n")[1] for text in texts[:6])

    def write(name: str, rows: list[str]) -> None:
        lines = (json.dumps({"text": text, "id": f"{name}{n}"}) for n, text in enumerate(rows))
        (folder / name).write_text("\n".join(lines))

    rules = {"*": DomainRules(paragraphs=ParagraphRules())}
    request = request_for(source_in(folder), curate=CurateConfig(domains=rules))
    write("a.jsonl", [*texts, mixed])
    first = manifest_of(store, refresh_once(store, request, tmp_path / "work"))
    assert first.documents_dropped == {"paragraph_duplicates": 1}
    write("b.jsonl", [*map(line, range(500, 512)), mixed + "\n" + line(900)])
    again = refresh_once(store, request, tmp_path / "work")
    assert manifest_of(store, again).documents_dropped == {"paragraph_duplicates": 1}
