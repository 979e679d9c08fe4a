from dataclasses import dataclass
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from infra.bounds import Bounds


@dataclass(frozen=True)
class Config:
    share: Annotated[float, Bounds(ge=0, lt=1)] = 0.5
    length: Annotated[int | None, Bounds(gt=0, unit="tokens")] = None


def test_a_number_outside_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValidationError, match=r"must be at least 0 and below 1, got 1\.5"):
        TypeAdapter(Config).validate_python({"share": 1.5})


def test_bounds_themselves_are_inside_or_outside_as_their_names_say() -> None:
    assert TypeAdapter(Config).validate_python({"share": 0.0}).share == 0.0
    with pytest.raises(ValidationError, match="below 1"):
        TypeAdapter(Config).validate_python({"share": 1.0})


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_json_cannot_record_is_refused_where_no_limit_forbids_it(value: float) -> None:
    with pytest.raises(ValueError, match="must be a number at least 0 nats, got "):
        Bounds(ge=0, unit="nats").check(value)


def test_a_number_that_is_not_set_passes() -> None:
    assert TypeAdapter(Config).validate_python({}).length is None
    with pytest.raises(ValidationError, match="must be above 0 tokens, got 0"):
        TypeAdapter(Config).validate_python({"length": 0})


def test_forms_get_the_bounds_and_the_unit() -> None:
    properties = TypeAdapter(Config).json_schema()["properties"]
    assert properties["share"]["minimum"] == 0
    assert properties["share"]["exclusiveMaximum"] == 1
    assert properties["length"]["unit"] == "tokens"
