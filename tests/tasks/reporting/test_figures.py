import json
import math
import re
from dataclasses import replace

from tasks.judge.verdict import VerdictReport
from tasks.reporting.card import card_of, signed
from tasks.reporting.figures import figures_of, tables_of
from tasks.reporting.matrix import cells_of, matrix_picture
from tasks.reporting.report import render
from tasks.scoring.forgetting import ForgettingMatrix, MatrixRow
from tests.support.example_report import VERDICTS, example
from tests.tasks.reporting.test_report import HOSTILE, Page

FAIL = VERDICTS["FAIL"]
EMPTY = ForgettingMatrix(slices=(), rows=())


def row_of(report: VerdictReport, test: str, domain: str) -> float:
    (row,) = [row for row in report.rows if (row.test, row.domain) == (test, domain)]
    assert row.difference is not None
    return row.difference


def test_figures_are_the_verdicts_own_by_their_names_in_mlflow() -> None:
    figures = figures_of(FAIL)
    assert figures["verdict/gain"] == -row_of(FAIL, "gain", "new data")
    assert figures["verdict/worst_loss"] == row_of(FAIL, "loss", "web")
    assert figures["forgetting/worst"] == 0.043
    assert figures["health/rep_4"] == 0.034
    assert figures["eval_task/arc_easy/accuracy"] == 0.52
    assert figures["eval_task/arc_easy/negative_flips"] == 44
    assert figures["health/champion_rep_4"] == 0.021
    assert figures["stability/web-en/depth_nats"] == 0.33
    assert figures["canary/worst_perplexity_ratio"] == math.exp(3.43 - 3.41)
    assert {f"drift/layer_{layer}" for layer in range(8)} < figures.keys()
    assert {"eval/web/nats_per_token", "eval_new/code/nats_per_token"} < figures.keys()


def test_names_have_only_what_mlflow_takes() -> None:
    hostile = replace(FAIL, rows=tuple(replace(row, domain=HOSTILE) for row in FAIL.rows))
    assert all(re.fullmatch(r"[\w\-. /]+", name) for name in figures_of(hostile))


def test_what_is_unknown_has_no_figure() -> None:
    rows = tuple(
        replace(row, difference=None, upper_bound=None, candidate_nats_per_token=None)
        for row in FAIL.rows
    )
    figures = figures_of(replace(FAIL, rows=rows, numbers=None, task_rows=()))
    assert not [name for name in figures if name.startswith(("verdict", "eval", "drift"))]
    assert all(math.isfinite(value) for value in figures.values())


def test_a_loss_without_a_bound_is_no_small_one() -> None:
    rows = [replace(row, upper_bound=None) if row.domain == "web" else row for row in FAIL.rows]
    figures = figures_of(replace(FAIL, rows=tuple(rows)))
    assert "verdict/worst_bound" not in figures
    assert figures["verdict/worst_loss"] == row_of(FAIL, "loss", "web")


def test_tables_have_as_many_cells_as_columns_in_every_row() -> None:
    page = example(FAIL)
    tables = tables_of(FAIL, page.matrix)
    assert set(tables) == {
        f"tables/{name}.json"
        for name in (
            *("requirements", "tasks", "flips", "forgetting"),
            *("drift", "canary", "calibration"),
        )
    }
    for text in tables.values():
        table = json.loads(text)
        assert table["data"]
        assert {len(row) for row in table["data"]} == {len(table["columns"])}
    requirements = json.loads(tables["tables/requirements.json"])
    at = requirements["columns"].index("difference")
    assert [row[at] for row in requirements["data"]] == [row.difference for row in FAIL.rows]
    flips = json.loads(tables["tables/flips.json"])
    assert flips["columns"] == ["task", "item", "before", "now"]
    assert flips["data"][1] == ["arc_easy", "arc_easy/203", "B", "D"]
    assert set(tables_of(replace(FAIL, numbers=None, task_rows=()), EMPTY)) == {
        "tables/requirements.json",
        "tables/canary.json",
    }


def test_a_field_is_shaded_by_its_distance_from_the_best_of_its_column() -> None:
    losses = (2.0, 2.01, 2.02, 2.04, 2.08, 2.2, None)
    rows = tuple(
        MatrixRow(version=f"{n}", decision="published", is_champion=False, nats_per_token=(loss,))
        for n, loss in enumerate(losses)
    )
    cells = cells_of(ForgettingMatrix(slices=("a@s",), rows=rows), 0.05)
    assert [row[0].heat for row in cells] == [0, 1, 2, 3, 4, 5, 0]


def test_the_picture_stands_alone_and_text_is_data() -> None:
    matrix = example(FAIL).matrix
    picture = matrix_picture(matrix, 0.05)
    assert picture.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "class=" not in picture
    assert ">3.441<" in picture
    hostile = replace(matrix, slices=tuple(HOSTILE for _ in matrix.slices))
    assert "<script" not in matrix_picture(hostile, 0.05)
    assert matrix_picture(EMPTY, 0.05) == ""


def test_the_card_names_few_and_counts_the_rest() -> None:
    (loss,) = [row for row in FAIL.rows if (row.test, row.domain) == ("loss", "web")]
    many = tuple(
        replace(loss, domain=f"old{n}", difference=0.001 * n, upper_bound=0.02) for n in range(9)
    )
    worse = card_of(replace(FAIL, rows=many), None)[1]
    assert (worse.title, len(worse.texts)) == ("Worse", 5)
    assert worse.texts[0].startswith("old old8, ")
    assert worse.texts[-1] == "and 5 more, by +0.004 at most"


def test_nothing_better_is_said() -> None:
    better, worse = card_of(replace(FAIL, rows=()), None)[:2]
    assert (better.texts, worse.texts) == (("nothing",), ("nothing",))


def test_a_change_that_rounds_to_nothing_has_no_sign() -> None:
    assert [signed(value) for value in (0.0, -0.0, 0.0001, -0.0004, 0.1)] == [
        *["0.000"] * 4,
        "+0.100",
    ]
    assert signed(-0.25) == "\N{MINUS SIGN}0.250"


def test_figures_on_the_page_and_in_mlflow_are_one() -> None:
    page = {key: value for key, value, _ in Page(render(example(FAIL))).figures}
    assert figures_of(FAIL)["health/rep_2"] == page["health.candidate.rep_2"]
    assert figures_of(FAIL)["forgetting/mean"] == page["numbers.forgetting.mean_forgetting"]
