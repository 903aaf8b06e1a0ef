"""Curves in a terminal: small ones of block characters, large ones of Braille characters, each of 2 × 4 dots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from optbench.schedules import SCHEDULES, LearningRate, ReduceLROnPlateau

EPOCHS, STEPS_PER_EPOCH, HEIGHT = 10, 20, 4
# Parameters for the schedules that cannot be drawn without, or show nothing.
_EXAMPLES: dict[str, dict[str, Any]] = {
    "polynomial": {"power": 2.0},
    "inverse_sqrt": {"warmup_steps": 0.1},
    "step": {"step_size": 3},
    "multistep": {"milestones": [3, 6]},
    "reduce_lr_on_plateau": {"patience": 1},
    "CosineAnnealingLR": {"T_max": 10},
    "CosineAnnealingWarmRestarts": {"T_0": 3},
}
_BLOCKS, _SPARKS = "▁▂▃▄▅▆▇█", 10
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def braille(values: Sequence[float], width: int, height: int) -> list[str]:
    """Rows of `width` characters, the topmost first: values from 0 (the bottom) to 1 (the top) over equal distances."""
    columns, rows = 2 * width, 4 * height
    cells = [[0] * width for _ in range(height)]
    heights = [values[round(x * (len(values) - 1) / (columns - 1))] for x in range(columns)]
    dots = [round((1 - min(1.0, max(0.0, value))) * (rows - 1)) for value in heights]
    for x, y in enumerate(dots):
        before = dots[x - 1] if x else y
        # A jump is drawn as a vertical line.
        for dot in range(min(before, y) + (before < y), max(before, y) + (before <= y)) if before != y else (y,):
            cells[dot // 4][x // 2] |= _DOTS[x % 2][dot % 4]
    return ["".join(chr(0x2800 + cell) for cell in row) for row in cells]


def sparkline(heights: Sequence[float]) -> str:
    """Heights from 0 to 1 as block characters, one for each, at most ten: equally spaced ones of more."""
    if len(heights) > _SPARKS:
        heights = [heights[round(i * (len(heights) - 1) / (_SPARKS - 1))] for i in range(_SPARKS)]
    return "".join(_BLOCKS[round(min(1.0, max(0.0, height)) * (len(_BLOCKS) - 1))] for height in heights)


def learning_rates(name: str) -> tuple[str, list[float]]:
    """A schedule with its parameters in words, and its learning rate over ten epochs as a share of lr."""
    schedule = SCHEDULES[name](**_EXAMPLES.get(name, {}))
    rate = LearningRate(schedule, 1.0, STEPS_PER_EPOCH, EPOCHS)
    values: list[float] = []
    for epoch in range(EPOCHS):
        values += rate.of_epoch(epoch)
        rate.observe(1.0 - min(epoch, 3) / 10)
    words = str(schedule)
    if isinstance(schedule, ReduceLROnPlateau):
        words += ", where val_loss improves for 4 epochs and no more"
    return words, values


def plot_schedules(console: Console) -> None:
    """Every schedule's curve."""
    width = min(60, console.width - 6)
    for name in SCHEDULES:
        words, values = learning_rates(name)
        console.print(Text(words, style="bold"))
        for i, row in enumerate(braille(values, width, HEIGHT)):
            console.print(Text(f"{'lr' if i == 0 else '0' if i == HEIGHT - 1 else '':>3} {row}"))
    console.print(Text(f"From left to right: {EPOCHS} epochs.", style="dim"))
