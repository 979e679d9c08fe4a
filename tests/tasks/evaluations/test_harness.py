import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.evaluations.config import TaskConfig
from tasks.evaluations.frozen import FrozenItem
from tasks.evaluations.harness import read_harness

QUESTIONS: list[dict[str, Any]] = [
    {"question": f"What is {n} + 1?", "options": [str(n), str(n + 1)], "answer": 1, "book": n % 3}
    for n in range(12)
]


def write(folder: Path, rows: list[dict[str, Any]], **values: Any) -> TaskConfig:
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    definition = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "test.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        **values,
    }
    kept = {key: value for key, value in definition.items() if value is not None}
    (folder / "sums.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), encoding="utf-8")
    return TaskConfig(name="sums", uri=str(folder / "sums.yaml"), kind="lm_eval")


def spelled(found: FrozenItem) -> list[str]:
    item = found.item
    places = range(len(item.choices))
    return [item.context_of(place) + "|" + item.continuation_of(place) for place in places]


def test_fields_and_templates_give_context_choices_and_gold(tmp_path: Path) -> None:
    read = read_harness(write(tmp_path, QUESTIONS))
    assert len(read) == 12
    assert spelled(read[0]) == ["Q: What is 0 + 1?\nA:| 0", "Q: What is 0 + 1?\nA:| 1"]
    assert (read[0].item.gold, read[0].item.nats_per) == (1, "choice")
    assert read[0].text == "Q: What is 0 + 1?\nA: 1"


def test_the_first_known_metric_of_the_list_decides_what_is_compared(tmp_path: Path) -> None:
    listed = [{"metric": "f1"}, {"metric": "acc_norm"}, {"metric": "acc"}]
    read = read_harness(write(tmp_path, QUESTIONS, metric_list=listed))
    assert read[0].item.nats_per == "character"


def test_the_gold_may_be_the_text_of_the_choice_or_a_template_of_its_index(tmp_path: Path) -> None:
    rows = [{"question": "Which is wet?", "options": ["sand", "rain"]}]
    for target in ("{{options[1]}}", "{{options.index('rain')}}", ["rain"]):
        read = read_harness(write(tmp_path, rows, doc_to_target=target))
        assert read[0].item.gold == 1


def test_pairs_without_a_context_carry_the_delimiter(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        [{"good": "He runs.", "bad": "He run."}],
        doc_to_text="",
        doc_to_target=0,
        doc_to_choice="{{[good, bad]}}",
    )
    assert spelled(read_harness(config)[0]) == ["| He runs.", "| He run."]


def test_choices_may_be_what_is_read_before_one_continuation(tmp_path: Path) -> None:
    rows = [{"sentence": "The _ is wet because it rained.", "options": ["road", "sun"], "gold": 0}]
    config = write(
        tmp_path,
        rows,
        doc_to_text="{{gold}}",
        doc_to_target="{{sentence.split('_')[1].strip()}}",
        doc_to_choice="{{['The ' + options[0], 'The ' + options[1]]}}",
    )
    read = read_harness(config)[0]
    end = "is wet because it rained."
    assert spelled(read) == [f"The road| {end}", f"The sun| {end}"]
    assert read.item.gold == 0


def test_a_loglikelihood_has_its_own_space_and_a_rolling_one_is_a_text(tmp_path: Path) -> None:
    rows = [{"text": "He looked out at the sea"}]
    config = write(
        tmp_path,
        rows,
        output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' ' + text.split(' ')[-1]}}",
        doc_to_choice=None,
    )
    assert spelled(read_harness(config)[0]) == ["He looked out at the| sea"]
    config = write(
        tmp_path,
        rows,
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="text",
        doc_to_choice=None,
    )
    found = read_harness(config)[0].item
    assert (found.kind, found.choices) == ("perplexity", ("He looked out at the sea",))


def test_generation_takes_its_stops_and_all_answers_that_count(tmp_path: Path) -> None:
    config = write(
        tmp_path,
        [{"question": "2 + 2", "answers": ["4", "four"]}],
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="answers",
        metric_list=[{"metric": "exact_match"}],
        generation_kwargs={"until": ["\n", "."], "max_gen_toks": 5, "do_sample": False},
    )
    item = read_harness(config)[0].item
    assert (item.kind, item.choices, item.stop, item.max_new_tokens) == (
        "generation", ("4", "four"), ("\n", "."), 5,
    )  # fmt: skip


def test_examples_are_drawn_as_the_harness_draws_them_and_are_not_the_items_own(
    tmp_path: Path,
) -> None:
    config = write(
        tmp_path, QUESTIONS, fewshot_split="test", num_fewshot=2, description="Sums.\n\n"
    )
    read = read_harness(config)
    generator = random.Random(1234)
    for row, found in zip(QUESTIONS, read, strict=True):
        drawn = [QUESTIONS[place] for place in generator.sample(range(12), 3)]
        shots = [other for other in drawn if other != row][:2]
        told = "".join(f"Q: {shot['question']}\nA: {shot['options'][1]}\n\n" for shot in shots)
        assert found.item.context == f"Sums.\n\n{told}Q: {row['question']}\nA:"
        assert found.text == f"Q: {row['question']}\nA: {row['options'][1]}"


def test_first_examples_of_another_split_and_an_included_file(tmp_path: Path) -> None:
    shots = [{"question": f"shot {n}", "options": ["x", "y"], "answer": 0} for n in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(s) + "\n" for s in shots), "utf-8")
    write(
        tmp_path,
        QUESTIONS,
        dataset_kwargs={"data_files": {"test": "test.jsonl", "train": "train.jsonl"}},
        fewshot_split="train",
        fewshot_config={"sampler": "first_n"},
    )
    (tmp_path / "few.yaml").write_text("num_fewshot: 2\ndescription: Sums.\n", encoding="utf-8")
    (tmp_path / "more.yaml").write_text(
        "include: [sums.yaml, few.yaml]\nnum_fewshot: 1\ndescription: ''\n", encoding="utf-8"
    )
    config = TaskConfig(name="more", uri=str(tmp_path / "more.yaml"), kind="lm_eval")
    read = read_harness(config)
    assert {found.item.context.split("\n\n")[0] for found in read} == {"Q: shot 0\nA: x"}


def test_a_field_of_the_documents_may_name_the_cluster(tmp_path: Path) -> None:
    config = write(tmp_path, QUESTIONS)
    clustered = TaskConfig(name="s", uri=config.uri, kind="lm_eval", cluster_field="book")
    assert [found.item.cluster for found in read_harness(clustered)][:4] == ["0", "1", "2", "0"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"doc_to_text": "{{quest}}"},
            r"sums.yaml:\d+: doc_to_text: 'quest' is undefined in .*test",
        ),
        ({"doc_to_text": "{{question"}, r"sums.yaml:\d+: doc_to_text: unexpected end of template"),
        ({"doc_to_chioce": "x"}, r"sums.yaml:\d+: doc_to_chioce: is not a key .* 'doc_to_choice'"),
        (
            {"task": ["sums", "words"], "aggregate_metric_list": []},
            r"sums.yaml:\d+: task: this is a group of tasks; give the file of each",
        ),
        ({"output_type": "rank"}, r"output_type: found 'rank'; expected one of multiple_choice"),
        ({"dataset_path": "piqa"}, r"dataset_path: found 'piqa'; only local files are read"),
        ({"process_docs": "x"}, r"process_docs: is not supported; write the processed documents"),
        ({"test_split": "dev"}, r"test_split: there is no split 'dev'; name one of test"),
        (
            {"doc_to_target": 2},
            r"doc_to_target: expected the one right choice or its index below 2",
        ),
        ({"doc_to_target": None}, r"doc_to_target: is missing"),
        ({"doc_to_choice": "question"}, r"doc_to_choice: expected a list of at least two choices"),
        ({"doc_to_choice": "{{question}}"}, r"expected a list, the template gives 'What is 0"),
        ({"metric_list": [{"metric": "bleu"}]}, r"metric_list: found bleu; expected one of acc"),
        ({"num_fewshot": 20}, r"num_fewshot: 20 examples are asked for, 12 documents are there"),
        ({"repeats": 3}, r"repeats: found 3; items are asked once"),
        (
            {"filter_list": [{"name": "x", "filter": [{"function": "regex"}]}]},
            "filter_list: only take_first is supported",
        ),
        ({"dataset_kwargs": {"data_files": "gone.jsonl"}, "test_split": "train"}, "gone.jsonl: no"),
    ],
)
def test_what_a_definition_cannot_say_here_is_refused_with_its_place_and_the_remedy(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_harness(write(tmp_path, QUESTIONS, **values))


def test_python_in_a_definition_is_refused_and_never_run(tmp_path: Path) -> None:
    config = write(tmp_path, QUESTIONS)
    path = Path(config.uri)
    path.write_text(path.read_text("utf-8") + "doc_to_text: !function utils.text\n", "utf-8")
    with pytest.raises(ValueError, match=r"doc_to_text: is Python \(!function\); write it as a"):
        read_harness(config)
    path.write_text(path.read_text("utf-8") + "x: !!python/object/apply:os.getcwd []\n", "utf-8")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_harness(config)


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path) -> None:
    way_out = "{{ ().__class__.__base__.__subclasses__() }}"
    with pytest.raises(ValueError, match="is unsafe"):
        read_harness(write(tmp_path, QUESTIONS, doc_to_text=way_out))
