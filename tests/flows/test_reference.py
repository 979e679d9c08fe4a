import re
from dataclasses import asdict
from pathlib import Path

from flows.lineage_yaml import parse_lineage
from flows.reference import render_reference
from training.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_page_is_what_the_classes_say() -> None:
    # To mend it: python -m flows.reference > docs/configuration.md
    assert PAGE.read_text(encoding="utf-8") == render_reference()


def test_the_page_shows_the_defaults_of_a_lineage_that_names_no_recipe() -> None:
    raw = {
        "name": "tiny",
        "base": {"directory": "base"},
        "sources": [{"name": "web", "uri": "x", "domain": "d"}],
    }
    recipe = parse_lineage(raw, origin=PAGE).recipe
    section = render_reference().split("## `ScheduleConfig`")[1].split("\n## ")[0]
    for key, value in asdict(recipe.schedule).items():
        assert re.search(rf"\| `{key}` \| [^|]* \| `{value}` \|", section), key


def test_the_page_lists_every_named_recipe_with_what_it_sets() -> None:
    page = render_reference()
    assert "| `name` | `rewarm-cosine` or `infinite` or `wsd` | `rewarm-cosine` |" in page
    listed = dict(re.findall(r"^\| `([\w-]+)` \| (.*`schedule\..*?) \|", page, re.M))
    assert set(listed) == set(RECIPES)
    for name, make in RECIPES.items():
        assert f"`schedule.kind: {make().schedule.kind}`" in listed[name]
