"""Values of any kind as JSON text: what JSON cannot hold is rendered safely, and nothing raises."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import json.encoder
import os
import re
import sys
from collections import deque
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from contextlib import AbstractContextManager, nullcontext
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import islice
from math import isfinite, prod
from typing import Any, Callable, Final, Optional
from uuid import UUID

MAX_DEPTH: Final = 8
MAX_ITEMS: Final = 256
"""Of one collection."""
MAX_VALUE_ITEMS: Final = 4_096
"""Of a whole value, at every depth: a list that holds itself 256 times must end too."""
MAX_ARRAY_ITEMS: Final = 16
"""An array or tensor of more is shown as its kind, shape and device."""
MAX_CHARACTERS: Final = 65_536
"""A longer text, or all texts of one value together, lose their end: no request waits for megabytes to be encoded."""
# No aggregator wants more, and Python refuses to print more than 4300.
MAX_DIGITS: Final = 1_000
_BIG: Final = 10**MAX_DIGITS
_NUMBERS: Final = frozenset({int, float, bool, type(None)})
_FLAT: Final = _NUMBERS | {str}

# Control characters that JSON allows but a line must not hold (DEL, C1 with U+0085), the separators at which Java's
# Scanner cuts a line (java.util.Scanner.nextLine: U+0085, U+2028, U+2029), and surrogates, which UTF-8 cannot hold.
_UNSAFE: Final = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_encode_basestring: Final[Callable[[str], str]] = json.encoder.encode_basestring


def _json_encoder() -> Callable[[Any, Any], Iterable[str]]:
    """Return what `json.JSONEncoder` makes anew for each text, at more cost than most texts have."""
    usual = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
    try:
        encoder: Any = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
            None, usual.default, _encode_basestring, None, ":", ",", usual.sort_keys, usual.skipkeys, usual.allow_nan
        )
    except (AttributeError, TypeError):
        # A Python that has it in another form, or not at all.
        return usual.iterencode
    return encoder  # type: ignore[no-any-return]


_encode_json: Final = _json_encoder()

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
    text = "".join(_encode_json(value, 0))
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def encode_flat(fields: dict[str, Any]) -> Optional[str]:
    """Return short fields as JSON text in one step; None if there are none, or one has to go through `encode_value`."""
    if not fields or not _FLAT.issuperset(map(type, fields.values())):
        return None
    try:
        text = "".join(_encode_json(fields, 0))
    except ValueError:
        # A number that JSON has not, or that Python does not print.
        return None
    if len(text) > MAX_DIGITS:
        # Too long to be sure that no text and no number in it is.
        return None
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def encode_numbers(values: list[Any]) -> Optional[str]:
    """Return a list as JSON text in one step; None if it is not a short one of numbers that JSON has."""
    kinds = {*map(type, values)}
    if len(values) > MAX_ITEMS or not _NUMBERS.issuperset(kinds):
        return None
    try:
        text = "".join(_encode_json(values, 0))
    except ValueError:
        return None
    return None if int in kinds and len(text) > MAX_DIGITS else text


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


def plain(value: Any) -> Any:
    """Return a copy of a value made of dict, list, str, int, float, bool and None alone.

    Returns:
        Numbers that JSON has not (NaN, infinities) as text; bytes as text with escapes; mappings with keys as text;
        dataclasses with the fields that they print; named tuples with their fields; sequences and sets; NumPy scalars
        as numbers; arrays and tensors of at most `MAX_ARRAY_ITEMS` items in the host's memory as lists, others as their
        kind, shape and device, without copying one from a device; anything else as its text. What exceeds the limits
        above is cut, with ``…``.
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
    return _Copy().of(value, 0)


class _Copy:
    """One walk through a value, with what is left of its limits."""

    __slots__ = ("_characters", "_items")

    def __init__(self) -> None:
        self._characters = MAX_CHARACTERS
        self._items = MAX_VALUE_ITEMS

    def of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind in ENCODERS:
            return value if kind is int and -_BIG < value < _BIG else plain(value)
        try:
            # The commonest first.
            if kind is dict and depth < MAX_DEPTH:
                return self._of_items(value.items(), len(value), depth)
            if kind is list and depth < MAX_DEPTH:
                return self._of_sequence(value, depth)
            return self._of_object(value, depth)
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything; the event must survive it
            return f"<{kind.__name__}: {type(error).__name__} while rendering>"

    def _text(self, text: str) -> str:
        size = len(text)
        if size > self._characters:
            text = text[: self._characters] + "…"
            size = self._characters
        self._characters -= size
        return text if text.isascii() else utf8(text)

    def _of_object(self, value: Any, depth: int) -> Any:  # noqa: C901, PLR0911 - one return a kind of value
        if isinstance(value, Enum):
            return self.of(value.value, depth)
        if isinstance(value, (str, bool, int, float)):
            # Subclasses, NumPy's float64 among them: the plain value behind them.
            base = next(base for base in (str, int, float) if isinstance(value, base))
            return self.of(base(value), depth)
        if isinstance(value, (bytes, bytearray)):
            more = f"… {len(value)} bytes" if len(value) > MAX_CHARACTERS else ""
            return self._text(bytes(value[:MAX_CHARACTERS]).decode("utf-8", "backslashreplace")) + more
        if isinstance(value, (dt.datetime, dt.date, dt.time)):
            return value.isoformat()
        if isinstance(value, (Decimal, Fraction, complex, UUID, dt.timedelta, os.PathLike)):
            return self._text(str(value))
        # Asked of the type: a stand-in object (a mock, a lazy proxy) has every attribute.
        if hasattr(type(value), "shape") and hasattr(type(value), "dtype"):
            return self._of_array(value, depth)
        if depth >= MAX_DEPTH:
            return f"<{type(value).__name__}>"
        if isinstance(value, Mapping):
            return self._of_items(value.items(), len(value), depth)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            # A key tells what a value is, for redaction too.
            return self._of_items(zip(value._fields, value), len(value), depth)
        if isinstance(value, _SEQUENCES):
            return self._of_sequence(value, depth)
        if dataclasses.is_dataclass(type(value)) and hasattr(type(value).__repr__, "__wrapped__"):
            # With the text that dataclasses make (it is wrapped against recursion); one of its author's own is kept.
            fields = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.repr]
            return self._of_items(fields, len(fields), depth)
        with without_device_copies():
            return self._text(repr(value))

    def _of_items(self, items: Any, size: int, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        # A list first: another thread may change the mapping while the values' own code runs.
        for key, item in list(islice(items, self._share(size))):
            name = self._text(key if type(key) is str and key else key_text(key))
            result[name if name not in result else unique_name(name, result)] = self.of(item, depth + 1)
        if size > len(result):
            result[unique_name("…", result)] = f"{size - len(result)} more"
        return result

    def _of_sequence(self, value: Any, depth: int) -> list[Any]:
        values = [self.of(item, depth + 1) for item in list(islice(value, self._share(len(value))))]
        if len(value) > len(values):
            values.append(f"… {len(value) - len(values)} more")
        return values

    def _share(self, size: int) -> int:
        share = min(size, MAX_ITEMS, self._items)
        self._items -= share
        return share

    def _of_array(self, value: Any, depth: int) -> Any:
        shape = tuple(value.shape)
        device = getattr(value, "device", None)
        if (device is None or str(device) == "cpu") and prod(shape) <= MAX_ARRAY_ITEMS:
            try:
                return self.of(value.tolist(), depth)
            except Exception:  # noqa: BLE001, S110 - sparse or fake: it has a shape, but no list of its items
                pass
        where = f", device={device}" if device is not None else ""
        return f"<{type(value).__name__} shape={shape}, dtype={value.dtype}{where}>"


_SEQUENCES: Final = (list, tuple, set, frozenset, deque, KeysView, ValuesView, ItemsView)


def key_text(key: Any) -> str:
    """Return a mapping's key as the name under which JSON shows it."""
    # An attribute without a name is not exported (OpenTelemetry specification, "Attribute").
    return utf8(key if type(key) is str else str(plain(key))) or "''"


def unique_name(name: str, taken: Any) -> str:
    """Return a name that is not taken yet: the given one, if need be with a mark."""
    while name in taken:
        name += "'"
    return name


def text_of(value: Any) -> str:
    """Return ``str(value)``, or what can be said of a value whose own code raises. It never raises."""
    if type(value) is str:
        return value
    try:
        with without_device_copies():
            return str(value)
    except Exception:  # noqa: BLE001 - the caller's object
        return str(plain(value))


def without_device_copies() -> AbstractContextManager[Any]:
    """Return a context in which the text of a tensor on a device is its kind, shape and device.

    Printing such a tensor would wait for the device and copy from it. PyTorch asks a mode of this thread first:
    https://docs.pytorch.org/docs/stable/torch.overrides.html#torch.overrides.TorchFunctionMode
    """
    global _printing  # noqa: PLW0603 - built once, when torch is there
    if _printing is None:
        torch, overrides = sys.modules.get("torch"), sys.modules.get("torch.overrides")
        # Absent, or still being imported.
        if not hasattr(torch, "Tensor") or not hasattr(overrides, "TorchFunctionMode"):
            return nullcontext()
        _printing = _build_printing_mode(torch, overrides)
    return _printing()


_printing: Optional[Callable[[], AbstractContextManager[Any]]] = None


def _build_printing_mode(torch: Any, overrides: Any) -> Callable[[], AbstractContextManager[Any]]:
    printing = (torch.Tensor.__repr__, torch.Tensor.__str__, torch.Tensor.__format__)
    host = torch.device("cpu").type

    class Printing(overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function in printing and args[0].device.type != host:
                tensor = args[0]
                shape, device = tuple(tensor.shape), tensor.device
                return f"<{type(tensor).__name__} shape={shape}, dtype={tensor.dtype}, device={device}>"
            return function(*args, **(kwargs or {}))

    return Printing
