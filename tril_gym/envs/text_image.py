"""A text as an image, for `render_mode="rgb_array"`."""

from __future__ import annotations

import textwrap

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT, MARGIN = 640, 360, 16  # pixels; all frames of a video have one size
FONT_SIZE, LINE_HEIGHT, CHARACTERS = 16, 22, 72  # pixels, pixels, characters a line
PAPER, INK = (250, 250, 247), (30, 30, 40)


def text_image(text: str) -> npt.NDArray[np.uint8]:
    """Return (HEIGHT, WIDTH, 3) with the last lines of a text that fit, in Pillow's own font (Latin letters)."""
    from PIL import Image, ImageDraw, ImageFont

    lines = [line for part in text.splitlines() for line in textwrap.wrap(part, CHARACTERS) or [""]]
    lines = lines[-((HEIGHT - 2 * MARGIN) // LINE_HEIGHT) :]
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + number * LINE_HEIGHT), line, fill=INK, font=font)
    return np.array(image)
