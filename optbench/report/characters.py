"""Curves drawn in characters: small ones of blocks, large ones of Braille characters, each of 2 × 4 dots."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Heights from 0 to 1 as block characters, one for each; of more than ten, ten that are equally spaced."""
    if len(heights) > _SPARKS:
        heights = [heights[round(i * (len(heights) - 1) / (_SPARKS - 1))] for i in range(_SPARKS)]
    return "".join(_BLOCKS[round(min(1.0, max(0.0, height)) * (len(_BLOCKS) - 1))] for height in heights)
