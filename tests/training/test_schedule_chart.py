"""The drawing of the learning rate: what is in it, and that every terminal can show it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config import Schedule, ScheduleConfig
from training.schedule import resolve
from training.schedule_chart import MAX_WIDTH, schedule_chart

INFINITE = """\
learning rate over tokens: infinite, peak 0.0003, end 3e-05
   0.0003 │ █▇▅▃
          │ ████▇▄
          │ ███████▄▁
          │ █████████▇▅▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄▄
          │████████████████████████████████████████████████▅▂
          │███████████████████████████████████████████████████▆▄▂▁
          │████████████████████████████████████████████████████████▇▆
        0 └──────────────────────────────────────────────────────────
           ^           ^                                ^
           ^ warm-up until 1.0M, cooldown until 11.0M, decay from
             40.0M, trunk at 40.0M (step 5,000), end at 50.0M tokens"""

COSINE = """\
learning rate over tokens: cosine, peak 0.001, end 0.0001
    0.001 | ######::::....
          | ################:::..
          | #######################::..
          | #############################::..
          |####################################::..
          |##########################################:::...
          |#####################################################:::::
        0 +----------------------------------------------------------
           ^                                                        ^
           ^ warm-up until 10,000, decay from 10,000, trunk at 500,000
             (step 500), end at 500,000 tokens"""


def schedule(
    kind: str, total_tokens: int, trunk_tokens: int = 0, eta_max: float = 3e-4
) -> Schedule:
    config = ScheduleConfig(kind=kind, eta_max=eta_max)  # pyright: ignore[reportArgumentType]
    return resolve(config, total_tokens=total_tokens, trunk_tokens=trunk_tokens)


def test_the_phases_of_a_first_infinite_update_are_drawn_and_named() -> None:
    lines = schedule_chart(
        schedule("infinite", 50_000_000), trunk_step=5000, batch_tokens=8000, ascii_only=False
    )
    assert "\n".join(lines) == INFINITE


def test_a_terminal_without_block_characters_gets_plain_ones() -> None:
    lines = schedule_chart(
        schedule("cosine", 500_000, eta_max=1e-3),
        trunk_step=500,
        batch_tokens=1000,
        ascii_only=True,
    )
    assert "\n".join(lines) == COSINE


def test_what_the_trunk_has_behind_it_is_not_in_the_picture() -> None:
    lines = schedule_chart(
        schedule("infinite", 20_000, trunk_tokens=40_000), trunk_step=16, batch_tokens=1000
    )
    legend = " ".join(" ".join(lines[-2:]).split())
    assert legend == "^ decay from 16,000, trunk at 16,000 (step 16), end at 20,000 tokens"
    assert lines[0] == "learning rate over tokens: infinite, peak 0.00015, end 3e-05"


@pytest.mark.parametrize("ascii_only", [False, True])
@given(
    kind=st.sampled_from(["cosine", "constant", "wsd", "infinite"]),
    total_tokens=st.integers(1, 10**13),
    trunk_tokens=st.integers(0, 10**13),
    eta_max=st.floats(1e-9, 0.99),
)
def test_every_plan_fits_into_a_terminal_of_eighty_columns_with_a_time_before_it_and_its_encoding(
    ascii_only: bool, kind: str, total_tokens: int, trunk_tokens: int, eta_max: float
) -> None:
    lines = schedule_chart(
        schedule(kind, total_tokens, trunk_tokens, eta_max),
        trunk_step=max(1, total_tokens // 3),
        batch_tokens=3,
        ascii_only=ascii_only,
    )
    assert max(map(len, lines)) <= MAX_WIDTH <= 80 - len("12:34:56  ")
    assert all(line == line.rstrip() for line in lines)
    if ascii_only:
        "".join(lines).encode("ascii")
    # The highest column reaches the top, or the peak lies between two columns' middles.
    assert any("█" in line or "#" in line for line in lines[1:4])
