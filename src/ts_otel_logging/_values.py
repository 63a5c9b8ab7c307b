"""Values of any kind as JSON text: what JSON cannot hold is rendered safely, and nothing raises."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Mapping
from enum import Enum
from itertools import islice
from json.encoder import encode_basestring as _encode_basestring
from math import isfinite
from typing import Any, Callable, Final

MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 256
MAX_CHARACTERS: Final = 65_536
"""A longer text loses its end, wherever it goes: nobody's request waits for megabytes to be encoded."""
# A thousand digits: no aggregator wants more, and Python refuses to print more than 4300.
_BIG: Final = 10**1_000

# Control characters that JSON allows but a line must not hold (DEL, C1 with U+0085), the separators at which Java's
# Scanner cuts a line (java.util.Scanner.nextLine: U+0085, U+2028, U+2029), and surrogates, which UTF-8 cannot hold.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_FIRST_SURROGATE: Final = 0xD800


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    # A lone surrogate is no character: keep it readable as the six characters of its escape.
    return f"\\\\u{code:04x}" if code >= _FIRST_SURROGATE else f"\\u{code:04x}"


def encode_string(text: str) -> str:
    """Return a string as JSON text in quotes, safe within one line of UTF-8."""
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + "…"
    encoded = _encode_basestring(text)
    if encoded.isascii() and "\x7f" not in encoded:
        return encoded
    return _UNSAFE.sub(_escape, encoded)


def utf8(text: str) -> str:
    """Return a text that UTF-8 can hold, of at most `MAX_CHARACTERS`: lone surrogates are shown as their escapes."""
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + "…"
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def encode_value(value: Any) -> str:
    """Return any value as strict JSON text, safe within one line of UTF-8. It never raises."""
    encoder = ENCODERS.get(type(value))
    if encoder is not None:
        return encoder(value)
    return encode_plain(plain(value))


def encode_plain(value: Any) -> str:
    """Return a value that `plain` returned as JSON text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if text.isascii() and "\x7f" not in text:
        return text
    return _UNSAFE.sub(_escape, text)


def _encode_float(value: float) -> str:
    text = repr(value)
    # Only "nan" and "inf" end in a letter: cheaper than asking for finiteness first.
    return f'"{text}"' if text[-1] in "nf" else text


def _encode_int(value: int) -> str:
    return repr(value) if -_BIG < value < _BIG else encode_string(str(plain(value)))


ENCODERS: Final[dict[type, Callable[[Any], str]]] = {
    str: encode_string,
    int: _encode_int,
    float: _encode_float,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
}
"""How values of the commonest types are encoded; every other one goes through `plain`."""


def plain(value: Any, depth: int = 0) -> Any:
    """Return a copy of a value made of dict, list, str, int, float, bool and None alone.

    Args:
        value: Anything.
        depth: How deep the value lies; beyond `MAX_DEPTH` its text stands for it.

    Returns:
        Numbers that JSON has not (NaN, infinities) as text; bytes as text with escapes; mappings with keys as text;
        sequences and sets up to `MAX_ITEMS` items; NumPy scalars as numbers; arrays and tensors as their kind, shape
        and device, without copying one from a device; anything else as its `repr`.
    """
    kind = type(value)
    if kind is str:
        return utf8(value)
    if kind is bool or value is None:
        return value
    if kind is int:
        return value if -_BIG < value < _BIG else f"an integer of {value.bit_length()} bits"
    if kind is float:
        return value if isfinite(value) else str(value)
    try:
        return _plain_object(value, depth)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything; the event must survive it
        return f"<{kind.__name__}: {type(error).__name__} while rendering>"


def _plain_object(value: Any, depth: int) -> Any:  # noqa: C901, PLR0911 - one return a kind of value
    if isinstance(value, Enum):
        return plain(value.value, depth)
    if isinstance(value, (str, bool, int, float)):
        # Subclasses, NumPy's float64 among them: the plain value behind them.
        base = next(base for base in (str, int, float) if isinstance(value, base))
        return plain(base(value), depth)
    if isinstance(value, (bytes, bytearray)):
        more = f"… {len(value)} bytes" if len(value) > MAX_CHARACTERS else ""
        return utf8(bytes(value[:MAX_CHARACTERS]).decode("utf-8", "backslashreplace")) + more
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return _plain_array(value, depth)
    if depth >= MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        result = {_key(key): plain(item, depth + 1) for key, item in islice(value.items(), MAX_ITEMS)}
        if len(value) > MAX_ITEMS:
            result["…"] = f"{len(value) - MAX_ITEMS} more"
        return result
    if isinstance(value, (list, tuple, set, frozenset)):
        values = [plain(item, depth + 1) for item in islice(value, MAX_ITEMS)]
        if len(value) > MAX_ITEMS:
            values.append(f"… {len(value) - MAX_ITEMS} more")
        return values
    return utf8(repr(value))


def _key(key: Any) -> str:
    return key if type(key) is str else str(plain(key, MAX_DEPTH))


def _plain_array(value: Any, depth: int) -> Any:
    shape = tuple(value.shape)
    device = getattr(value, "device", None)
    if not shape and (device is None or str(device) == "cpu"):
        return plain(value.item(), depth)
    where = f", device={device}" if device is not None else ""
    return f"<{type(value).__name__} shape={shape}, dtype={value.dtype}{where}>"
