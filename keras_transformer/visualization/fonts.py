"""Fonts that have the letters of a picture, whatever their script; a warning where none has.

matplotlib itself joins Arabic letters and writes from right to left, from version 3.11 on.
"""

from __future__ import annotations

import functools
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib import font_manager

from keras_transformer.backend import install_hint

EMPTY_BOX = "\u25a1"
EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH"}
# Fonts that have a box or a sign of the script for every letter, which is no help to a reader.
NOT_FOR_READING = ("LastResort", "Last Resort", ".LastResort", "Adobe Blank", "Unifont Upper")


def fonts_for(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the texts as they can be drawn, and the families of fonts to draw them with.

    The fonts of matplotlib's settings come first; letters they lack are looked for in all fonts of
    the machine. A letter that no font has becomes an empty box, and a warning says what to install.

    Args:
        texts: all texts of a picture.
    """
    wanted = sorted({letter for text in texts for letter in text if _is_drawn(letter)})
    families = list(matplotlib.rcParams["font.family"])
    lacking = [letter for letter in wanted if not any(_family_has(f, letter) for f in families)]
    if not lacking:
        return list(texts), families
    add_packaged_font()
    candidates = _candidates("".join(wanted))
    found: list[font_manager.FontEntry] = []
    missing: list[str] = []
    for letter in lacking:
        entry = next((e for e in (*found, *candidates) if _entry_has(e, letter)), None)
        if entry is None:
            missing.append(letter)
        elif entry not in found:
            found.append(entry)
    if missing:
        _warn(missing, texts)
    boxes = str.maketrans(dict.fromkeys(missing, EMPTY_BOX))
    return [text.translate(boxes) for text in texts], [*families, *(e.name for e in found)]


def _is_drawn(letter: str) -> bool:
    """Whether a letter needs a glyph: joiners, marks of direction and spaces do not."""
    variation_selector = "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"
    return unicodedata.category(letter) not in {"Cf", "Cc", "Zs"} and not variation_selector


def _family_has(family: str, letter: str) -> bool:
    try:
        path = font_manager.findfont(
            font_manager.FontProperties(family=[family]), fallback_to_default=False
        )
    except ValueError:  # not on this machine: matplotlib passes it over too
        return False
    return _font_has(str(path), getattr(path, "face_index", 0), letter)


def _entry_has(entry: font_manager.FontEntry, letter: str) -> bool:
    return _font_has(entry.fname, entry.index, letter)


@functools.lru_cache(maxsize=100_000)
def _font_has(path: str, index: int, letter: str) -> bool:
    try:
        font = font_manager.get_font(font_manager.FontPath(path, index))
    except (OSError, RuntimeError):  # removed since matplotlib listed it, or damaged
        return False
    return bool(font.scalable) and font.get_char_index(ord(letter)) > 0


@functools.cache
def add_packaged_font() -> None:
    """Tell matplotlib of the font in noto-cjk-sans-otc, where that is installed."""
    try:
        from noto_cjk_sans_otc import FONT_PATH
    except ImportError:
        return
    font_manager.fontManager.addfont(str(FONT_PATH))


def _candidates(letters: str) -> list[font_manager.FontEntry]:
    """Return the upright fonts of normal weight, the likeliest first, always in the same order.

    Chinese, Japanese and Korean share characters that each writes a little differently: with
    kana among the letters the Japanese forms are taken, with hangul the Korean ones.
    """
    region = "SC"
    if any("\u3040" <= letter <= "\u30ff" for letter in letters):
        region = "JP"
    elif any("\uac00" <= letter <= "\ud7a3" for letter in letters):
        region = "KR"
    upright = [
        entry
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal"
        and entry.weight in (400, "normal", "regular")
        and not entry.name.startswith(NOT_FOR_READING)
    ]

    def order(entry: font_manager.FontEntry) -> tuple[bool, bool, str, str]:
        best = entry.name == f"Noto Sans CJK {region}"
        return not best, not entry.name.startswith("Noto Sans"), entry.name, entry.fname

    return sorted(upright, key=order)


def _script(letter: str) -> str:
    """Name the script of a letter by Unicode's name of it: DEVANAGARI LETTER KA."""
    first = unicodedata.name(letter, "UNNAMED").replace("-", " ").split()[0]
    if first in EAST_ASIAN:
        return "Chinese, Japanese or Korean"
    return first.capitalize() if unicodedata.category(letter)[0] in "LMN" else "symbol"


def _warn(missing: Iterable[str], texts: Sequence[str]) -> None:
    """Name the scripts that cannot be drawn, once for a picture, and what to do."""
    letters = set(missing)
    scripts = sorted({_script(letter) for letter in letters})
    example = next(text for text in texts if letters & set(text))
    remedies: list[str] = []
    if "Chinese, Japanese or Korean" in scripts:
        remedies.append(install_hint("notebooks") + ".")
    if scripts != ["Chinese, Japanese or Korean"]:
        kept = Path(matplotlib.get_cachedir())
        remedies.append(
            "Install a font that has them (Debian: apt install fonts-noto-core), delete "
            f"matplotlib's list of fonts ({kept}/fontlist-*.json) and start Python again."
        )
    warnings.warn(
        f"No font of this machine has these letters: {', '.join(scripts)}, as in {example!r}. "
        f"They are drawn as empty boxes. {' '.join(remedies)}",
        stacklevel=3,
    )
