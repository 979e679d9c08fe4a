from pathlib import Path

from flows.reference import render_reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_reference_page_is_what_the_classes_say() -> None:
    # To mend it: python -m flows.reference > docs/configuration.md
    assert PAGE.read_text(encoding="utf-8") == render_reference()
