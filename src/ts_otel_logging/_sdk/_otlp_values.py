"""Attributes and values as the bytes of OTLP's protobuf messages: what spans and log records share.

The messages are those of
https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/common/v1/common.proto, written as
https://protobuf.dev/programming-guides/encoding/ has it: a field is a tag, which is its number times eight plus how its
value is written, and the value, behind its length where it has one. What stands before a value depends on its key and
its length alone, so it is made once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from struct import Struct
from typing import Any, Final, Optional

from opentelemetry.attributes import BoundedAttributes

from ts_otel_logging._diagnostics import swallowed

# AnyValue's fields.
_STRING: Final = b"\x0a"
_BOOL: Final = {False: b"\x10\x00", True: b"\x10\x01"}
_INT: Final = b"\x18"
_DOUBLE: Final = b"\x21"
_ARRAY: Final = b"\x2a"
_PAIRS: Final = b"\x32"
_BYTES: Final = b"\x3a"
# KeyValue's.
_KEY: Final = b"\x0a"
_VALUE: Final = b"\x12"
# The one field of ArrayValue and of KeyValueList.
_ITEM: Final = b"\x0a"

_FLOAT_64: Final = Struct("<d")
_MIN_INT_64: Final = -(2**63)
_MAX_INT_64: Final = 2**63 - 1
_UNSIGNED_64: Final = 2**64 - 1
# protobuf's libraries read at most a hundred messages within each other, and a value of a span's event is the sixth
# one; a list in it adds two, a mapping three: https://protobuf.dev/programming-guides/proto-limits/.
_MAX_DEPTH: Final = 91

# Keys, names and numbers repeat; whatever a program makes up must not stay for ever.
_MAX_KEPT: Final = 1_024
_MAX_KEPT_BYTES: Final = 256


class _Varints(dict[int, bytes]):
    def __missing__(self, number: int) -> bytes:
        rest, result = number, bytearray()
        while rest >= 0x80:  # noqa: PLR2004 - seven bits a byte; the eighth says that more follow
            result.append(rest & 0x7F | 0x80)
            rest >>= 7
        result.append(rest)
        varint = bytes(result)
        if number < _MAX_KEPT:
            self[number] = varint
        return varint


varints: Final = _Varints()
"""Numbers that are not negative, each in as few bytes as it needs."""


def framed(data: bytes) -> bytes:
    """Return the bytes of a text or of a message behind their length."""
    return varints[len(data)] + data


def text_field(tag: bytes, text: Optional[str]) -> bytes:
    """Return a field with a text; nothing for an empty one, which is the default."""
    return tag + framed(str.encode(text)) if text else b""


def number_field(tag: bytes, number: Optional[int]) -> bytes:
    """Return a field with a number that is not negative; nothing for 0, which is the default."""
    return tag + varints[number] if number else b""


class TextFields(dict[Optional[str], bytes]):
    """The fields of texts that repeat, such as names of spans.

    Args:
        tag: The field.
    """

    def __init__(self, tag: bytes) -> None:
        super().__init__()
        self._tag = tag

    def __missing__(self, text: Optional[str]) -> bytes:
        field = text_field(self._tag, text)
        if len(field) <= _MAX_KEPT_BYTES:
            if len(self) >= _MAX_KEPT:
                self.clear()
            self[text] = field
        return field


class _Frames(dict[int, bytes]):
    """What stands before an AnyValue with a text, by the text's length.

    Args:
        before: What stands before the AnyValue, up to its length.
        is_pair: Whether both together are behind their length, too.
    """

    __slots__ = ("_before", "_is_pair")

    def __init__(self, before: bytes, *, is_pair: bool) -> None:
        super().__init__()
        self._before = before
        self._is_pair = is_pair

    def __missing__(self, size: int) -> bytes:
        text = _STRING + varints[size]
        frame = self._before + varints[len(text) + size] + text
        if self._is_pair:
            frame = varints[len(frame) + size] + frame
        if size <= _MAX_KEPT_BYTES:
            self[size] = frame
        return frame


class Key:
    """What is known of the pairs with one key, each of them a KeyValue behind its length.

    Attributes:
        texts: What stands before a text, by its length.
        double: What stands before a floating-point number.
        flags: Whole pairs, by truth.
        numbers: Whole pairs, by number.
    """

    __slots__ = ("_before", "double", "flags", "numbers", "texts")

    def __init__(self, key: str) -> None:
        self._before = _KEY + framed(str.encode(key)) + _VALUE
        self.texts = _Frames(self._before, is_pair=True)
        self.double = self.pair(_DOUBLE + bytes(_FLOAT_64.size))[: -_FLOAT_64.size]
        self.flags = {flag: self.pair(value) for flag, value in _BOOL.items()}
        self.numbers: dict[int, bytes] = {}

    def pair(self, value: bytes) -> bytes:
        """Return the pair with an AnyValue."""
        return framed(self._before + framed(value))

    def number(self, number: int) -> bytes:
        """Return the pair with a number, and keep it."""
        pair = self.pair(_any_value(number, 0))
        if len(self.numbers) >= _MAX_KEPT_BYTES:
            self.numbers.clear()
        self.numbers[number] = pair
        return pair


class _Keys(dict[str, Key]):
    def __missing__(self, name: str) -> Key:
        key = Key(name)
        if len(name) <= _MAX_KEPT_BYTES:
            if len(self) >= _MAX_KEPT:
                self.clear()
            self[name] = key
        return key


_keys: Final = _Keys()


def attribute_fields(tag: bytes, mapping: Optional[Mapping[str, Any]]) -> bytes:
    """Return attributes as a repeated field. One that cannot be encoded costs itself alone, and is told.

    Args:
        tag: The field, as one byte.
        mapping: The SDK's attributes, or any other mapping.
    """
    # The SDK's mapping is written in Python, with a lock; the dict in it is not.
    fields: Any = mapping._dict if type(mapping) is BoundedAttributes else mapping  # noqa: SLF001
    if not fields:
        return b""
    try:
        return strict_attribute_fields(tag, fields)
    except Exception:  # noqa: BLE001 - values are anybody's
        return b"".join([_attribute_field(tag, name, value) for name, value in fields.items()])


def _attribute_field(tag: bytes, name: str, value: Any) -> bytes:
    try:
        return strict_attribute_fields(tag, {name: value})
    except Exception as error:  # noqa: BLE001 - values are anybody's
        swallowed("attribute", ValueError(f"{name!r:.100} is not exported: {error}"))
        return b""


def strict_attribute_fields(tag: bytes, fields: Mapping[str, Any], *, takes_any: bool = True) -> bytes:
    """Return attributes as a repeated field.

    Args:
        tag: The field, as one byte.
        fields: The attributes.
        takes_any: Whether values may be of any kind that OTLP has; otherwise they are what `plain` returns of texts,
            finite numbers and truth values.

    Raises:
        Exception: One cannot be encoded, or is not of these kinds.
    """
    # `join` puts the tag between its parts: behind nothing, that is before each pair.
    pairs = [b""]
    for name, value in fields.items():
        key = _keys[name]
        kind = type(value)
        if kind is str:
            text = value.encode()
            pairs.append(key.texts[len(text)] + text)
        elif kind is float and (takes_any or isfinite(value)):
            pairs.append(key.double + _FLOAT_64.pack(value))
        elif kind is int:
            pairs.append(key.numbers.get(value) or key.number(value))
        elif kind is bool:
            pairs.append(key.flags[value])
        elif takes_any:
            pairs.append(key.pair(_any_value(value, 0)))
        else:
            raise TypeError(kind)
    return tag.join(pairs)


class ValueFields:
    """A field with an AnyValue.

    Args:
        tag: The field.

    Attributes:
        before_texts: What stands before a text, by its length.
    """

    def __init__(self, tag: bytes) -> None:
        self._tag = tag
        self.before_texts: Mapping[int, bytes] = _Frames(tag, is_pair=False)

    def __call__(self, value: Any) -> bytes:
        """Return the field.

        Args:
            value: None, a text, a number, bytes, or a sequence or mapping of these.

        Raises:
            Exception: It cannot be encoded.
        """
        if type(value) is str:
            text = value.encode()
            return self.before_texts[len(text)] + text
        return self._tag + framed(_any_value(value, 0))


def _any_value(value: Any, depth: int) -> bytes:  # noqa: C901, PLR0911 - one return a kind
    # None is an AnyValue that holds nothing: https://opentelemetry.io/docs/specs/otel/common/#anyvalue. The oldest
    # encoder that we meet (1.41) leaves it out, or refuses it; the newest one does this.
    if value is None:
        return b""
    if isinstance(value, bool):
        return _BOOL[value]
    if isinstance(value, str):
        return _STRING + framed(str.encode(value))
    if isinstance(value, int):
        if not _MIN_INT_64 <= value <= _MAX_INT_64:
            raise OverflowError(f"a number of {value.bit_length()} bits, where 64 are the most")
        return _INT + varints[value & _UNSIGNED_64]
    if isinstance(value, float):
        return _DOUBLE + _FLOAT_64.pack(value)
    if isinstance(value, bytes):
        return _BYTES + framed(value)
    if depth > _MAX_DEPTH:
        raise ValueError("too many collections within each other")
    if isinstance(value, Sequence):
        return _ARRAY + framed(_ITEM.join([b"", *(framed(_any_value(item, depth + 2)) for item in value)]))
    if isinstance(value, Mapping):
        pairs = [_keys[str(name)].pair(_any_value(item, depth + 3)) for name, item in value.items()]
        return _PAIRS + framed(_ITEM.join([b"", *pairs]))
    raise TypeError(f"no kind of value that OTLP has: {type(value).__name__}")
