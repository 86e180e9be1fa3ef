"""The colours of figures, maps and token strips.

A figure is drawn for a light page. A dark page inverts it and turns its hues back (`ON_DARK`), so that white becomes
black and the hues stay; nothing has to know the theme when it draws. Cells and colour bars end at the dark page's
background instead of at black (`CELLS_STYLE`). The scale of unsigned numbers goes from the page's
background to dark blue; that of signed numbers has the background in its middle, blue below zero and orange above.
Blue and orange differ for colour-blind eyes, and along each arm the lightness falls steadily, so that both scales can
be read in grey. maps.js has the same stops; a test holds them together.
"""

import numpy as np

SEQUENTIAL = ("#ffffff", "#d3e2fa", "#97bbf2", "#5590e6", "#2a66cf", "#16449a", "#0c2b66")
DIVERGING = ("#123c8c", "#3a72d2", "#8fb4f0", "#d8e5fa", "#ffffff", "#fbe0c8", "#f2ad74", "#d2691e", "#8a3a06")
BLUE, ORANGE = "#3a72d2", "#d2691e"  # of bars and lines; 3 to 1 against both backgrounds
LINES = (BLUE, ORANGE, "#2a9d7c", "#c2679d", "#8a8a35", "#8c6bc8", "#c9504a", "#7f7f7f")
GREY = "#767676"  # readable on white and on black
FAINT = "rgba(128,128,128,0.25)"

# CSS of a plot on a dark page. The variables are the inks of cells that are black, or white, on pages of both kinds.
ON_DARK = "filter: invert(1) hue-rotate(180deg); --wb-ink-black: #fff; --wb-ink-white: #000"
# CSS of the cells and colour bars of a plot on a dark page, applied before it is inverted: white is dimmed, so that
# it becomes the page's background, `GROUND` of 1.
GROUND = 0.06
CELLS_STYLE = f":is(.heatmaplayer image, .cbfills) {{ filter: brightness({1 - GROUND:g}) }}"
# CSS of a plot's texts on a page; the inks of cells and the labels under the pointer have colours of their own.
TEXT_STYLE = ".js-plotly-plot text:not(.hoverlayer text, .heatmap-label text) { fill: #3f3f46 !important; }"

_TURN = np.array([[-0.574, 1.430, 0.144], [0.426, 0.430, 0.144], [0.426, 1.430, -0.856]])  # hue-rotate(180deg)
_STEPS = 256
_EQUAL = 0.179  # the luminance with equal contrast to black and to white


def plotly_scale(stops: tuple[str, ...]) -> list[list[float | str]]:
    """Stops at equal distances as a plotly colour scale."""
    return [[n / (len(stops) - 1), stop] for n, stop in enumerate(stops)]


def sampled(stops: tuple[str, ...], shares: np.ndarray) -> np.ndarray:
    """The colours at places of a scale, 0 to 1: … -> … rgb, each from 0 to 1."""
    table = np.array([rgb(stop) for stop in stops])
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(shares, places, table[:, part]) for part in range(3)], axis=-1)


def rgb(colour: str) -> tuple[float, float, float]:
    """A colour "#rrggbb" as red, green and blue from 0 to 1."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def css(colour: np.ndarray) -> str:
    """Red, green and blue from 0 to 1 as "#rrggbb"."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour.tolist())


def on_dark(colours: np.ndarray) -> np.ndarray:
    """Colours (… rgb) as `ON_DARK` shows them (Filter Effects Module Level 1, hue-rotate)."""
    return ((1 - colours) @ _TURN.T).clip(0, 1)


def cells_on_dark(colours: np.ndarray) -> np.ndarray:
    """Colours (… rgb) of cells as `CELLS_STYLE` and `ON_DARK` show them: white becomes the page's background."""
    return on_dark((1 - GROUND) * colours)


def luminance(colours: np.ndarray) -> np.ndarray:
    """The relative luminance of colours, … rgb -> … (WCAG 2.2)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def inks(stops: tuple[str, ...], shares: np.ndarray) -> np.ndarray:
    """The CSS colours of texts on cells at places of a scale, 0 to 1; NaN has the colour of other texts.

    Black or white, chosen on the light and on the dark page each, so that the contrast is at least 4.5 on both
    (WCAG 2.2, 1.4.3). Where that needs the same ink on both, a variable exchanges it before `ON_DARK` inverts it.
    """
    cells = sampled(stops, np.linspace(0, 1, _STEPS))
    light, dark = luminance(cells) > _EQUAL, luminance(cells_on_dark(cells)) > _EQUAL
    plain = np.where(light, "#000", "#fff").astype(object)  # inverted, black is white
    both = np.where(light, "var(--wb-ink-black,#000)", "var(--wb-ink-white,#fff)")
    chosen = np.where(light == dark, both, plain)
    places = np.nan_to_num((_STEPS - 1) * shares.clip(0, 1)).round().astype(int)
    return np.where(np.isnan(shares), GREY, chosen[places])
