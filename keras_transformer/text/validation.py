"""The one place that says which texts are accepted."""

# Callers are not type-checked, so arguments are.
# pyright: reportUnnecessaryIsInstance=false

import re
from collections.abc import Sequence

_REFUSED = re.compile("[\x00\ud800-\udfff]")


def check_texts(texts: Sequence[str], argument: str = "texts") -> list[str]:
    """Returns the texts as a list, or refuses the first one that no runtime could carry.

    Any text of Unicode scalar values except U+0000 is accepted. U+0000 ends a string inside
    ONNX Runtime and TensorFlow operators, and a lone surrogate has no UTF-8 form, so both are
    refused before any work is done.

    Args:
        texts: a sequence of `str`. A single `str` is refused, because its characters would be
            taken for texts.
        argument: the caller's name for `texts`, used in messages.

    Returns:
        A new list with the same strings.

    Raises:
        ValueError: for a single string, something that is not a sequence, an element that is not
            `str`, or an element with U+0000 or a lone surrogate; the message has its index and
            position.

    Example:
        >>> check_texts(["a little girl", ""])
        ['a little girl', '']
    """
    if isinstance(texts, str | bytes):
        raise ValueError(
            f"{argument} must be a sequence of strings, not one string. "
            f"Put it in a list. Received: {argument}={_shown(texts)}"
        )
    try:
        checked = list(texts)
    except TypeError:
        raise ValueError(
            f"{argument} must be a sequence of strings. Pass a list of str. "
            f"Received: {argument}={_shown(texts)}"
        ) from None
    for index, text in enumerate(checked):
        if not isinstance(text, str) or _REFUSED.search(text):
            check_text(text, f"{argument}[{index}]")
    return checked


def check_text(text: str, name: str = "text") -> None:
    """Refuses one text by the same rule; `name` is what messages call it.

    Raises:
        ValueError: when it is not `str`, or has U+0000 or a lone surrogate.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"{name} must be a str. Decode bytes and convert other values first. "
            f"Received: {name}={_shown(text)}"
        )
    found = _REFUSED.search(text)
    if found is None:
        return
    code_point = ord(found.group())
    what = "U+0000 (NUL)" if code_point == 0 else f"the lone surrogate U+{code_point:04X}"
    around = text[max(0, found.start() - 20) : found.start() + 20]
    raise ValueError(
        f"{name} must be Unicode text without U+0000 and without lone surrogates. "
        f"Remove {what} at position {found.start()}. "
        f"Received: {name}={around!a}{'' if len(text) <= 40 else ' (shortened)'}"
    )


def _shown(value: object, limit: int = 60) -> str:
    text = ascii(value)
    return text if len(text) <= limit else text[:limit] + "..."
