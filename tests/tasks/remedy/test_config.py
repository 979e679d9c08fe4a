from pathlib import Path
from typing import Any

import pytest

from flows.lineage_yaml import LineageError, parse_lineage
from tasks.remedy.config import RemedyConfig

ORIGIN = Path("lineage.yaml")


def parsed(**remedy: Any) -> RemedyConfig:
    raw = {
        "name": "tiny",
        "base": {"directory": "base"},
        "sources": [{"name": "web", "uri": "x", "domain": "d"}],
        "remedy": remedy,
    }
    return parse_lineage(raw, origin=ORIGIN).remedy


def test_the_yaml_says_the_order_of_attempts_and_what_each_chooses_from() -> None:
    config = parsed(order=[["interpolation", "last_k"], ["lower_peak"]], weights=[0.5])
    assert config.order == (("interpolation", "last_k"), ("lower_peak",))
    assert parsed(order=[]).order == ()
    assert parsed() == RemedyConfig()


@pytest.mark.parametrize(
    ("remedy", "message"),
    [
        ({"order": [["interpolation", "lower_peak"]]}, "lower_peak in an attempt of its own"),
        ({"order": [["interpolation"], ["interpolation"]]}, "every remedy at most once"),
        ({"order": [[]]}, "at least one remedy in every attempt"),
        ({"order": [["magic"]]}, "magic"),
        ({"weights": []}, "at least one share of the candidate"),
        ({"weights": [1.0]}, "must be"),
        ({"peak": 0.5}, "unknown key"),
    ],
)
def test_what_cannot_be_followed_is_refused(remedy: dict[str, Any], message: str) -> None:
    with pytest.raises(LineageError, match=r"remedy") as error:
        parsed(**remedy)
    assert message in str(error.value)


def test_all_attempts_together_have_the_level_of_one_verdict() -> None:
    config = RemedyConfig()
    assert config.level(0.05) * len(config.order) == pytest.approx(0.05)
    assert RemedyConfig(order=()).level(0.05) == 0.05
