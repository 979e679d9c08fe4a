import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.lineage_yaml import LineageError, load_lineage, parse_lineage
from flows.template import render_template
from tasks.curation.quality import QualityRules
from tasks.near_duplicates.config import NearDuplicateConfig

ORIGIN = Path("/somewhere/lineage.yaml")
MODEL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 64,
}


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "base": {"model": dict(MODEL)},
        "sources": [{"name": "web", "uri": "data/*.jsonl", "domain": "web-en"}],
        **changes,
    }


@pytest.mark.parametrize("small", [False, True])
def test_the_template_is_a_valid_lineage(small: bool, tmp_path: Path) -> None:
    file = tmp_path / "lineage.yaml"
    file.write_text(render_template("tiny", "lineage.yaml", small=small))
    lineage = load_lineage(file)
    assert lineage.name == "tiny"
    assert lineage.recipe.seq_len == (256 if small else 1024)
    assert lineage.base.model is not None
    assert lineage.base.model.hidden_size == (192 if small else 768)
    assert lineage.near_duplicates == NearDuplicateConfig()


def test_no_source_is_parsed_to_read_a_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(*_: object, **__: object) -> None:
        pytest.fail("CPython before 3.11.8 fails at random when two threads parse")

    monkeypatch.setattr(ast, "parse", parse)
    assert parse_lineage(minimal(), origin=ORIGIN).name == "tiny"


def test_relative_paths_start_at_the_files_own_folder() -> None:
    assert parse_lineage(minimal(), origin=ORIGIN).sources[0].uri == "/somewhere/data/*.jsonl"


def test_relative_paths_of_what_rules_learn_from_do_too() -> None:
    quality = {"reference": "good.jsonl", "random": "s3://bucket/any.jsonl"}
    curate = {"domains": {"*": {"quality": quality, "gopher": {}}}}
    rules = parse_lineage(minimal(curate=curate), origin=ORIGIN).curate.domains["*"].quality
    assert rules == QualityRules(reference="/somewhere/good.jsonl", random="s3://bucket/any.jsonl")


def test_a_named_recipe_is_complete_and_single_fields_override_it() -> None:
    raw = minimal(recipe={"name": "infinite", "seq_len": 64, "schedule": {"eta_max": 0.002}})
    recipe = parse_lineage(raw, origin=ORIGIN).recipe
    assert recipe.schedule.kind == "infinite"
    assert recipe.schedule.eta_max == 0.002
    assert recipe.seq_len == 64


def test_near_duplicates_are_looked_for_where_the_section_is_there() -> None:
    assert parse_lineage(minimal(), origin=ORIGIN).near_duplicates is None
    named = parse_lineage(minimal(near_duplicates="fineweb"), origin=ORIGIN).near_duplicates
    empty = parse_lineage(minimal(near_duplicates={}), origin=ORIGIN).near_duplicates
    assert named == empty == NearDuplicateConfig(ngram=5, bands=14, rows=8)
    own = parse_lineage(minimal(near_duplicates={"threshold": 0.8}), origin=ORIGIN)
    assert own.near_duplicates == NearDuplicateConfig(threshold=0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"near_duplicates": "finweb"},
            r"near_duplicates: 'finweb' is not a preset; known are fineweb, .*mean 'fineweb'\?",
        ),
        ({"near_duplicates": {"band": 20}}, r"near_duplicates\.band: unknown key; .*'bands'\?"),
        (
            {"near_duplicates": {"threshold": 0.5}},
            r"near_duplicates: threshold 0\.5 asks for more than 14 bands of 8 rows can find",
        ),
        (
            {"near_duplicates": {"threshold": 1.5}},
            r"near_duplicates\.threshold: must be above 0 and at most 1, got 1\.5",
        ),
        ({"repley": {}}, r"repley: unknown key; allowed here are .*; did you mean 'replay'\?"),
        (
            {"curate": {"domains": {"web": {"gopher": {}}}}},
            r"curate\.domains: no source has the domain 'web'; expected one of web-en, or '\*' for "
            r"all that are not named; did you mean 'web-en'\?",
        ),
        (
            {"curate": {"shares": {"*": {"source": 0.4}}}},
            r"curate\.shares: of domain 'web-en' no source may have more than 0\.4, which needs",
        ),
        (
            {"curate": {"licences": {"wob": {"deny": ["GPL*"]}}}},
            r"curate\.licences: no source has the name 'wob'; .* did you mean 'web'\?",
        ),
        (
            {"curate": {"domains": {"*": {"gofer": {}}}}},
            r"curate\.domains\.\*\.gofer: unknown key; .*; did you mean 'gopher'\?",
        ),
        (
            {"curate": {"domains": {"*": {"gopher": {"min_word": 5}}}}},
            r"curate\.domains\.\*\.gopher\.min_word: unknown key; .*; did you mean 'min_words'\?",
        ),
        (
            {"curate": {"domains": {"*": {"c4": None}}}},
            r"curate\.domains\.\*\.c4: is empty, so it would do nothing; write 'c4: \{\}'",
        ),
        (
            {"curate": {"domains": {"*": {"gopher": {"max_bullet_lines": 2}}}}},
            r"max_bullet_lines: must be at least 0 and at most 1, got 2",
        ),
        (
            {"curate": {"domains": {"*": {"language": {"allow": ["english"]}}}}},
            r"language\.allow: 'english' is no language that can be told; known are ace, af, ",
        ),
        (
            {"curate": {"domains": {"*": {"pii": {"drop": ["keys"]}}}}},
            r"pii\.drop\[0\]: must be 'email', 'phone', 'ip', 'card' or 'key', got 'keys'",
        ),
        (
            {"replay": {"share": 1.5}},
            r"replay\.share: must be at least 0 and below 1, got 1\.5",
        ),
        (
            {"recipe": {"schedule": {"eta_maxx": 1}}},
            r"recipe\.schedule\.eta_maxx: unknown key; .* did you mean 'eta_max'\?",
        ),
        ({"recipe": {"name": "rewarm"}}, r"recipe\.name: 'rewarm' is not a recipe; known are"),
        ({"name": "../up"}, r"name '\.\./up' is not a valid name"),
        ({"base": {}}, "expected exactly one of model .* and directory"),
        (
            {"sources": [{"name": "a", "uri": "x", "domain": "d", "fields": {"txt": "t"}}]},
            r"sources\[0\]\.fields\.txt: unknown key; allowed here are .*; did you mean 'text'\?",
        ),
        (
            {"compute": {"num_workers": [5, 7]}},
            r"num_workers 5 to 7 does not divide .* \d+: workers",
        ),
        ({"compute": {"num_workers": [2]}}, r"compute\.num_workers: must be a whole .* got \[2\]"),
        ({"budget": {"epochs": "many"}}, r"budget\.epochs: must be a number, got 'many'"),
        ({"recipe": {"precision": "fp8"}}, r"precision: must be 'bf16' or 'fp32', got 'fp8'"),
        (
            {"recipe": {"seqlen": 1}},
            r"recipe\.seqlen: unknown key; allowed here are name, seq_len,",
        ),
        ({"recipe": {"seq_len": [1]}}, r"recipe\.seq_len: must be a whole number"),
        ({"base": 3}, "base: expected a mapping, found a number"),
    ],
)
def test_a_problem_names_the_key_the_value_and_what_is_allowed(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LineageError, match=message):
        parse_lineage(minimal(**changes), origin=ORIGIN)


def test_all_unknown_keys_are_reported_at_once() -> None:
    with pytest.raises(LineageError) as error:
        parse_lineage(minimal(foo=1, bar=2), origin=ORIGIN)
    assert "foo: unknown key" in str(error.value)
    assert "bar: unknown key" in str(error.value)


def test_two_sources_of_one_name_are_refused() -> None:
    source = {"name": "web", "uri": "x", "domain": "d"}
    with pytest.raises(
        LineageError, match=r"yaml: sources: source names must be unique, found twice: web"
    ):
        parse_lineage(minimal(sources=[source, source]), origin=ORIGIN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list", "expected a mapping with the keys name, base, sources"),
        ("a: [", "cannot be read as YAML"),
        ("# to be filled in", "expected a mapping with the keys name, .*, found an empty file"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "lineage.yaml"
    file.write_text(content)
    with pytest.raises(LineageError, match=message):
        load_lineage(file)


def test_a_directory_in_place_of_the_file_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match=f"{tmp_path} is a directory: name the lineage's YAML"):
        load_lineage(tmp_path)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match="'perennial init NAME' writes one"):
        load_lineage(tmp_path / "absent.yaml")


def test_a_lineage_survives_a_round_trip_through_yaml(tmp_path: Path) -> None:
    file = tmp_path / "lineage.yaml"
    file.write_text(yaml.safe_dump(minimal()))
    assert load_lineage(file) == parse_lineage(minimal(), origin=file)
