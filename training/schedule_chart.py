"""The learning-rate plan as a drawing of characters: rate over tokens, with the points that matter.

Pure: the same schedule gives the same lines. None is wider than a terminal of 80 columns with the
time of a log line before it.
"""

import textwrap

from infra.progress import counted
from training.config import Schedule
from training.schedule import lr_at

MAX_WIDTH = 70
_LABEL_WIDTH = 9
_COLUMNS = 58
_ROWS = 7
_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = " .:#"


def schedule_chart(
    schedule: Schedule, *, trunk_step: int, batch_tokens: int, ascii_only: bool = False
) -> list[str]:
    """The chart's lines, at most 70 characters wide, a legend of the marked points below it.

    Args:
        schedule: In absolute tokens.
        trunk_step: Step whose checkpoint the next update continues from.
        batch_tokens: Tokens of a step.
        ascii_only: For a terminal or log that cannot show block characters.
    """
    total = schedule.total_tokens
    points = _points(schedule, trunk_step, batch_tokens)
    middles = [round(total * (column + 0.5) / _COLUMNS) for column in range(_COLUMNS)]
    rates = [lr_at(tokens, schedule) for tokens in middles]
    peak = max(rates + [lr_at(tokens, schedule) for tokens, _ in points])
    blocks = _ASCII_BLOCKS if ascii_only else _BLOCKS
    lines = [
        f"learning rate over tokens: {schedule.kind}, peak {_rate(peak)}, "
        f"end {_rate(schedule.eta_min)}"
    ]
    for row in reversed(range(_ROWS)):
        label = _rate(peak) if row == _ROWS - 1 else ""
        bars = "".join(_block(rate / peak * _ROWS - row, blocks) for rate in rates)
        lines.append(f"{label:>{_LABEL_WIDTH}} {'|' if ascii_only else '│'}{bars}".rstrip())
    corner, dash = ("+", "-") if ascii_only else ("└", "─")
    lines.append(f"{'0':>{_LABEL_WIDTH}} {corner}{dash * _COLUMNS}")
    lines.append(_marks([tokens for tokens, _ in points], total))
    legend = [what.format(counted(tokens, total)) for tokens, what in points]
    text = f"^ {', '.join(legend)}, end at {counted(total)} tokens"
    indent = " " * (_LABEL_WIDTH + 2)
    lines += textwrap.wrap(text, MAX_WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
    return lines


def _points(schedule: Schedule, trunk_step: int, batch_tokens: int) -> list[tuple[int, str]]:
    """Where something changes, in tokens of this update, each with what it is; in order."""
    warmup_end = schedule.warmup_tokens - schedule.trunk_tokens
    cooldown_end = warmup_end + schedule.cooldown_tokens
    decay_begin = schedule.total_tokens - schedule.decay_tokens
    points = [
        (warmup_end, "warm-up until {}", schedule.warmup_tokens),
        (cooldown_end, "cooldown until {}", schedule.cooldown_tokens),
        (decay_begin, "decay from {}", schedule.decay_tokens),
        (trunk_step * batch_tokens, f"trunk at {{}} (step {trunk_step:,})", trunk_step),
    ]
    # What was over before this update, or has no length, is not in the picture.
    there = [(at, what) for at, what, length in points if length > 0 and at >= 0]
    return sorted(there, key=lambda point: point[0])


def _marks(positions: list[int], total: int) -> str:
    marks = [" "] * (_COLUMNS + 1)
    for tokens in positions:
        marks[min(round(_COLUMNS * tokens / total), _COLUMNS)] = "^"
    return (" " * (_LABEL_WIDTH + 1) + "".join(marks)).rstrip()


def _block(height: float, blocks: str) -> str:
    """The character of a cell that is filled up to ``height``, 1 and more being all of it."""
    return blocks[round(min(max(height, 0.0), 1.0) * (len(blocks) - 1))]


def _rate(rate: float) -> str:
    return f"{rate:.3g}"
