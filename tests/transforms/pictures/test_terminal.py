"""What is written to a terminal, decoded again, is the picture; and terminals are recognised."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from transforms.pictures import Display, draw_in_terminal, recognise

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
PICTURE = Image.fromarray(PIXELS)

# A picture of a few colours, which a palette holds without loss.
FLAT = np.zeros((31, 45, 3), np.uint8)
FLAT[3:17, 5:40] = (255, 0, 0)
FLAT[12:29, 20:33] = (0, 255, 51)


def test_kitty_gets_the_picture_as_a_png_in_pieces() -> None:
    written = draw_in_terminal(PICTURE, Display.KITTY)
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", written)
    assert "".join(f"\x1b_G{control};{data}\x1b\\" for control, data in pieces) + "\n" == written
    assert len(pieces) > 1
    assert all(len(data) <= 4096 for _, data in pieces)
    assert pieces[0][0].split(",")[:3] == ["a=T", "f=100", "q=2"]
    assert [control[-3:] for control, _ in pieces] == ["m=1"] * (len(pieces) - 1) + ["m=0"]
    decoded = Image.open(io.BytesIO(base64.b64decode("".join(data for _, data in pieces))))
    np.testing.assert_array_equal(np.asarray(decoded), PIXELS)


def test_iterm2_gets_the_picture_as_one_png() -> None:
    written = draw_in_terminal(PICTURE, Display.ITERM2)
    match = re.fullmatch(r"\x1b\]1337;File=inline=1;size=(\d+);width=50px;height=37px:([A-Za-z0-9+/=]+)\a\n", written)
    assert match is not None
    data = base64.b64decode(match[2])
    assert len(data) == int(match[1])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS)


def decoded_sixel(written: str) -> np.ndarray:
    """A small decoder of sixel, from DEC's description: uint8 [H, W, 3]."""
    match = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', written, re.DOTALL)
    assert match is not None
    width, height = int(match[1]), int(match[2])
    picture = np.zeros((height + 6, width, 3), np.uint8)
    palette: dict[int, tuple[int, ...]] = {}
    x = y = colour = 0
    for token in re.findall(r"#\d+(?:;\d+)*|!\d+[?-~]|[?-~$-]", match[3]):
        if token[0] == "#":
            colour, *rest = (int(part) for part in token[1:].split(";"))
            if rest:
                assert rest[0] == 2, "RGB"
                palette[colour] = tuple(round(level * 255 / 100) for level in rest[1:])
        elif token in "$-":
            x, y = 0, y + 6 * (token == "-")
        else:
            times = int(token[1:-1]) if token[0] == "!" else 1
            for bit in range(6):
                if (ord(token[-1]) - 63) >> bit & 1:
                    picture[y + bit, x : x + times] = palette[colour]
            x += times
            assert x <= width
    assert not picture[height:].any(), "nothing below the picture"
    return picture[:height]


def test_sixel_has_the_colours_of_the_picture() -> None:
    np.testing.assert_array_equal(decoded_sixel(draw_in_terminal(Image.fromarray(FLAT), Display.SIXEL)), FLAT)


def test_sixel_of_a_picture_with_more_colours_than_its_palette_comes_near() -> None:
    smooth = np.stack(np.meshgrid(np.arange(0, 240, 4), np.arange(0, 240, 6)), axis=2)
    smooth = np.concatenate([smooth, np.full((*smooth.shape[:2], 1), 90)], axis=2).astype(np.uint8)
    decoded = decoded_sixel(draw_in_terminal(Image.fromarray(smooth), Display.SIXEL))
    assert np.abs(decoded.astype(int) - smooth).mean() < 8


def decoded_blocks(written: str) -> np.ndarray:
    """The colours of half blocks in 24 bits: uint8 [2 · lines, columns, 3]; no ground is white."""
    rows = []
    for line in written.splitlines():
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+)(?:;48;2;(\d+);(\d+);(\d+))?m▀", line)
        assert line.endswith("\x1b[0m")
        rows.append([cell[:3] for cell in cells])
        rows.append([cell[3:] if cell[3] else (255, 255, 255) for cell in cells])
    return np.array(rows, int).astype(np.uint8)


def test_half_blocks_have_two_pixels_a_character() -> None:
    decoded = decoded_blocks(draw_in_terminal(PICTURE, Display.TRUE_COLOUR, 80))
    assert decoded.shape == (38, 50, 3), "an even height"
    np.testing.assert_array_equal(decoded[:37], PIXELS)
    assert (decoded[37] == 255).all()


def test_half_blocks_are_reduced_to_the_width_of_the_terminal() -> None:
    assert decoded_blocks(draw_in_terminal(PICTURE, Display.TRUE_COLOUR, 25)).shape[:2] == (18, 25)


@pytest.mark.parametrize(
    ("rgb", "colour"),
    [((0, 0, 0), 16), ((255, 255, 255), 231), ((255, 0, 0), 196), ((95, 135, 175), 67), ((8,) * 3, 232)],
)
def test_256_colours_take_the_nearest(rgb: tuple[int, int, int], colour: int) -> None:
    written = draw_in_terminal(Image.new("RGB", (1, 2), rgb), Display.COLOURS_256)
    assert written == f"\x1b[38;5;{colour};48;5;{colour}m▀\x1b[0m\n"


SIXEL_ANSWER, OTHER_ANSWER = "\x1b[?62;4;22c", "\x1b[?64;1;22c"


@pytest.mark.parametrize(
    ("environment", "answer", "display"),
    [
        ({"TERM": "xterm-kitty"}, "", Display.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "", Display.KITTY),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "", Display.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "", Display.ITERM2),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, SIXEL_ANSWER, Display.ITERM2),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "", Display.ITERM2),
        ({"TERM": "foot"}, SIXEL_ANSWER, Display.SIXEL),
        ({"TERM": "tmux-256color", "TMUX": "x", "KITTY_WINDOW_ID": "1"}, SIXEL_ANSWER, Display.SIXEL),
        ({"TERM": "screen", "LC_TERMINAL": "iTerm2", "COLORTERM": "truecolor"}, "", Display.TRUE_COLOUR),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, OTHER_ANSWER, Display.TRUE_COLOUR),
        ({"TERM": "xterm-direct"}, "garbage", Display.TRUE_COLOUR),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, OTHER_ANSWER, Display.COLOURS_256),
        ({}, "", Display.COLOURS_256),
        ({"TERM": "dumb"}, SIXEL_ANSWER, None),
    ],
)
def test_a_terminal_is_recognised(environment: dict[str, str], answer: str, display: Display | None) -> None:
    assert recognise(environment, lambda: answer) is display


def test_a_terminal_that_its_variables_tell_is_not_asked() -> None:
    def ask() -> str:
        raise AssertionError("asked")

    assert recognise({"TERM": "xterm-kitty"}, ask) is Display.KITTY


# Opening the terminal makes it the one of the new session.
ASK = """
import os, sys
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
from transforms.pictures.terminal import ask_terminal
print(repr(ask_terminal(float(sys.argv[2]))))
"""


@pytest.mark.parametrize("answer", ["\x1b[?62;4c", ""], ids=["one that answers", "one that does not"])
def test_the_question_is_put_to_the_terminal_and_its_answer_is_not_waited_for_long(answer: str) -> None:
    ours, theirs = pty.openpty()
    try:
        seconds = "20" if answer else "0.2"
        arguments = [sys.executable, "-c", ASK, os.ttyname(theirs), seconds]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            asked = b""
            while not asked.endswith(b"\x1b[c"):
                asked += os.read(ours, 100)
            os.write(ours, answer.encode())
            said, _ = process.communicate(timeout=60)
        assert said.strip() == repr(answer)
    finally:
        os.close(ours)
        os.close(theirs)
