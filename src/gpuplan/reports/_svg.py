"""SVG as text: escaped elements, short numbers, and how wide a text may get in whatever sans-serif font is there.

Called by the reports that draw. It knows nothing of what is drawn, and its output depends on its arguments alone.
"""

from __future__ import annotations

import unicodedata
from xml.sax import saxutils

_WIDTHS = (
    (0.37, "ijlIJ',.:;/|\\- "),
    (0.42, "frt()[]!"),
    (0.6, "sczkvxyLF?*_`"),
    (0.84, "w&#+<=>^~ABCDEGHKNOPQRSTUVXYZ"),
    (1.0, "mMW@%"),
)
_EM = {character: width for width, characters in _WIDTHS for character in characters}
_PLAIN_EM, _FOREIGN_EM, _SQUARE_EM = 0.64, 1.1, 1.4
"""Widths in font sizes: no less than in DejaVu Sans, the widest of the usual sans-serif fonts; of what is not ASCII,
and of the squares of Chinese and emoji, a guess on the wide side."""
BOLD = 1.18
"""How much wider bold letters are, at most."""
_ELLIPSIS = "…"
_FIRST_PRINTABLE = 0x20
_NOT_XML = frozenset({0xFFFE, 0xFFFF})


def clean(text: str) -> str:
    """Return a user's text on one line, with every character that XML 1.0 forbids shown as U+FFFD."""
    return "".join(_legal(character) for character in " ".join(text.split()))


def tag(name: str, content: str = "", /, **attributes: str | float) -> str:
    """Return an element; `content` is markup, attribute values are escaped, `_` in their names becomes `-`."""
    pairs = "".join(f" {key.replace('_', '-')}={saxutils.quoteattr(_value(v))}" for key, v in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>" if content else f"<{name}{pairs}/>"


def text(content: str, size: float, **attributes: str | float) -> str:
    """Return a text element of `size` px; `content` is any user string."""
    return tag("text", escaped(content), font_size=size, **attributes)


def escaped(content: str) -> str:
    """Return a user's text as markup."""
    return saxutils.escape(clean(content))


def polyline(points: list[tuple[float, float]], **attributes: str | float) -> str:
    """Return an open line through points."""
    joined = " ".join(f"{_value(x)},{_value(y)}" for x, y in points)
    return tag("polyline", points=joined, fill="none", stroke_linejoin="round", **attributes)


def text_width(content: str, size: float) -> float:
    """Return an upper estimate of a text's width in px at a font size in px."""
    return size * sum(_em(character) for character in content)


def wrapped(content: str, size: float, width: float, *, lines: int = 1) -> list[str]:
    """Return the text in at most `lines` lines of at most `width` px; what does not fit ends in an ellipsis."""
    words, found = clean(content).split(" "), [""]
    for position, word in enumerate(words):
        longer = f"{found[-1]} {word}".lstrip()
        if not found[-1] or text_width(longer, size) <= width:
            found[-1] = longer
        elif len(found) < lines:
            found.append(word)
        else:
            found[-1] = " ".join([found[-1], *words[position:]])
            break
    return [_cut(line, size, width) for line in found if line]


def _cut(line: str, size: float, width: float) -> str:
    if text_width(line, size) <= width:
        return line
    kept = line
    while kept and text_width(kept + _ELLIPSIS, size) > width:
        kept = kept[:-1]
    return kept.rstrip() + _ELLIPSIS


def _em(character: str) -> float:
    if character.isascii():
        return _EM.get(character, _PLAIN_EM)
    return _SQUARE_EM if unicodedata.east_asian_width(character) in {"W", "F"} else _FOREIGN_EM


def _legal(character: str) -> str:
    code = ord(character)
    surrogate = 0xD800 <= code <= 0xDFFF  # noqa: PLR2004 - Unicode's surrogates
    return "\ufffd" if code < _FIRST_PRINTABLE or surrogate or code in _NOT_XML else character


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{round(value, 1) + 0.0:.1f}".removesuffix(".0")
