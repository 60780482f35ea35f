"""Draws a picture in a terminal: as an image where the terminal takes one, else in coloured half blocks."""

from __future__ import annotations

import base64
import enum
import io
import itertools
import os
import re
import select
import time
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image

_ESC = "\x1b"
_CHUNK = 4096  # the most characters that one escape sequence of kitty's may hold
_SIXEL_COLOURS = 255


class Display(enum.Enum):
    """What a terminal can show."""

    KITTY = "kitty"
    ITERM2 = "iterm2"
    SIXEL = "sixel"
    TRUE_COLOUR = "half blocks in 24-bit colours"
    COLOURS_256 = "half blocks in 256 colours"

    @property
    def is_blocks(self) -> bool:
        """Whether a picture has two pixels a character: too few for text in it."""
        return self in (Display.TRUE_COLOUR, Display.COLOURS_256)


def recognise(environment: Mapping[str, str], ask: Callable[[], str] | None = None) -> Display | None:
    """What the terminal can show, by its environment variables; None if it has no colours at all.

    Inside tmux and screen, the variables are those of the terminal around them, which would not get the images.

    Args:
      environment: such as `os.environ`.
      ask: sends the terminal the question for its device attributes and returns the answer; see `ask_terminal`. It is
        asked only if the variables do not tell.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "").lower()
    if term == "dumb":
        return None
    inside = "TMUX" in environment or "STY" in environment or term.startswith(("screen", "tmux"))
    if not inside:
        if "KITTY_WINDOW_ID" in environment or "kitty" in term or "ghostty" in (program, term.removeprefix("xterm-")):
            return Display.KITTY
        if program in ("iterm.app", "wezterm", "mintty", "rio") or environment.get("LC_TERMINAL") == "iTerm2":
            return Display.ITERM2
    # Attribute 4 of the answer to "primary device attributes" (DEC VT340) stands for sixel.
    answer = re.search(r"\x1b\[\?([\d;]*)c", ask()) if ask is not None else None
    if answer is not None and "4" in answer[1].split(";")[1:]:
        return Display.SIXEL
    if environment.get("COLORTERM", "").lower() in ("truecolor", "24bit") or term.endswith("-direct"):
        return Display.TRUE_COLOUR
    return Display.COLOURS_256


def ask_terminal(seconds: float = 0.3) -> str:
    """The terminal's answer to the question for its primary device attributes; empty if none comes in time.

    Without a terminal of its own, as in a job of a scheduler, a process asks nothing.
    """
    import termios
    import tty

    try:
        device = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        # Another process may own the terminal: a job in the background would be stopped if it changed its settings.
        if os.tcgetpgrp(device) != os.getpgrp():
            return ""
        before = termios.tcgetattr(device)
        answer = b""
        try:
            tty.setcbreak(device, termios.TCSANOW)
            os.write(device, b"\x1b[c")
            end = time.monotonic() + seconds
            while not answer.endswith(b"c") and (left := end - time.monotonic()) > 0:
                if select.select([device], [], [], left)[0]:
                    answer += os.read(device, 256)
        finally:
            termios.tcsetattr(device, termios.TCSANOW, before)
        return answer.decode("ascii", errors="replace")
    except (OSError, termios.error):
        return ""
    finally:
        os.close(device)


def draw_in_terminal(picture: Image.Image, display: Display, columns: int = 80) -> str:
    """The characters that show a picture in a terminal, with a line break at the end.

    Args:
      picture: in RGB.
      display: what the terminal can show.
      columns: its width in characters. Half blocks are reduced to it; images are shown in their own pixels.
    """
    if display is Display.KITTY:
        return _kitty(picture)
    if display is Display.ITERM2:
        return _iterm2(picture)
    if display is Display.SIXEL:
        return _sixel(picture)
    return _half_blocks(picture, columns, true_colour=display is Display.TRUE_COLOUR)


def _png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def _kitty(picture: Image.Image) -> str:
    """Kitty's graphics protocol: a PNG in base64, in pieces. `q=2` asks the terminal for no answers."""
    data = base64.b64encode(_png(picture)).decode()
    pieces = [data[i : i + _CHUNK] for i in range(0, len(data), _CHUNK)]
    written = []
    for i, piece in enumerate(pieces):
        control = f"m={int(i < len(pieces) - 1)}" if i else f"a=T,f=100,q=2,m={int(len(pieces) > 1)}"
        written.append(f"{_ESC}_G{control};{piece}{_ESC}\\")
    return "".join(written) + "\n"


def _iterm2(picture: Image.Image) -> str:
    """iTerm2's inline images: a whole PNG in base64."""
    data = _png(picture)
    return (
        f"{_ESC}]1337;File=inline=1;size={len(data)};width={picture.width}px;height={picture.height}px:"
        f"{base64.b64encode(data).decode()}\a\n"
    )


def _sixel(picture: Image.Image) -> str:
    """Sixel (DEC VT340): a palette, then bands six pixels high, each drawn once for every colour in it."""
    reduced = picture.convert("RGB").quantize(_SIXEL_COLOURS, dither=Image.Dither.NONE)
    indices = np.asarray(reduced)
    height, width = indices.shape
    palette = np.asarray(reduced.getpalette(), np.float64).reshape(-1, 3)[: indices.max() + 1]
    written = [f'{_ESC}Pq"1;1;{width};{height}']
    written += [f"#{i};2;" + ";".join(str(round(level / 255 * 100)) for level in rgb) for i, rgb in enumerate(palette)]
    weights = 1 << np.arange(6)
    for top in range(0, height, 6):
        band = indices[top : top + 6]
        lines = []
        for colour in np.unique(band):
            codes = (weights[: len(band), None] * (band == colour)).sum(axis=0) + 63
            runs = ((chr(code), len(list(same))) for code, same in itertools.groupby(codes.tolist()))
            lines.append(f"#{colour}" + "".join(f"!{n}{c}" if n > 3 else c * n for c, n in runs))
        written.append("$".join(lines) + "-")
    return "".join(written) + f"{_ESC}\\\n"


def _half_blocks(picture: Image.Image, columns: int, *, true_colour: bool) -> str:
    """Two pixels in each character: the upper one in its colour, the lower one in the colour of its ground."""
    if picture.width > columns:
        picture = picture.resize(
            (columns, max(1, round(picture.height * columns / picture.width))), Image.Resampling.BOX
        )
    pixels = np.asarray(picture.convert("RGB"))
    written = []
    for top in range(0, len(pixels), 2):
        line = []
        for x, upper in enumerate(pixels[top]):
            front = _colour(upper, 38, true_colour)
            # The last line of an odd height has no lower pixels.
            ground = f";{_colour(pixels[top + 1, x], 48, true_colour)}" if top + 1 < len(pixels) else ""
            line.append(f"{_ESC}[{front}{ground}m▀")
        written.append("".join(line) + f"{_ESC}[0m\n")
    return "".join(written)


def _colour(rgb: np.ndarray, kind: int, true_colour: bool) -> str:
    """The parameters of a colour; `kind` is 38 for a character and 48 for its ground."""
    red, green, blue = (int(level) for level in rgb)
    return f"{kind};2;{red};{green};{blue}" if true_colour else f"{kind};5;{_nearest_of_256(red, green, blue)}"


def _nearest_of_256(red: int, green: int, blue: int) -> int:
    """The nearest of xterm's 256 colours: of its cube of 6×6×6 levels, or of its 24 greys."""
    levels = (0, 95, 135, 175, 215, 255)
    steps = [int(np.abs(np.subtract(levels, level)).argmin()) for level in (red, green, blue)]
    grey = min(23, max(0, round(((red + green + blue) / 3 - 8) / 10)))
    of_cube = sum((levels[i] - level) ** 2 for i, level in zip(steps, (red, green, blue), strict=True))
    of_grey = sum((8 + 10 * grey - level) ** 2 for level in (red, green, blue))
    return 232 + grey if of_grey < of_cube else 16 + 36 * steps[0] + 6 * steps[1] + steps[2]
