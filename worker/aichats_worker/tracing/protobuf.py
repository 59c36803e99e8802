"""The part of protobuf's wire format that a span needs: a message is its fields, one after another and in any order.

A field is its key, which is its number and how its value is written, and then the value. Texts, bytes and messages
within messages are all written the same way, with their length first: https://protobuf.dev/programming-guides/encoding
"""

from struct import Struct
from typing import Final

_VARINT, _EIGHT_BYTES, _SIZED, _FOUR_BYTES = 0, 1, 2, 5
_BYTE: Final = [bytes((number,)) for number in range(128)]
_SIZED_KEYS: Final = [_BYTE[field << 3 | _SIZED] for field in range(16)]
_pack_four = Struct("<I").pack

# What comes after `eight`: a whole number without a sign, such as a time in nanoseconds, or one with a fraction.
pack_whole = Struct("<Q").pack
pack_fraction = Struct("<d").pack


def varint(number: int) -> bytes:
    """Return a whole number in 7 bits a byte, the lowest first; a negative one as 64 bits, in two's complement."""
    if 0 <= number < 1 << 7:
        return _BYTE[number]
    if 0 <= number < 1 << 14:  # the size of a span
        return bytes((number & 0x7F | 0x80, number >> 7))
    left, found = number & 0xFFFF_FFFF_FFFF_FFFF, bytearray()
    while left > 0x7F:
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)


def whole(field: int, number: int) -> bytes:
    """Return a field of a whole number of 64 bits, of a truth or of one of an enumeration."""
    return varint(field << 3 | _VARINT) + varint(number)


def four(field: int, number: int) -> bytes:
    """Return a field of four bytes, such as flags."""
    return varint(field << 3 | _FOUR_BYTES) + _pack_four(number)


def eight(field: int) -> bytes:
    """Return what comes before a value of eight bytes."""
    return varint(field << 3 | _EIGHT_BYTES)


def head(field: int, size: int) -> bytes:
    """Return what comes before so many bytes. The field is one of the first 15."""
    return _SIZED_KEYS[field] + varint(size)


def sized(field: int, value: bytes) -> bytes:
    """Return a field of bytes, of a text in UTF-8 or of a message. It is one of the first 15."""
    size = len(value)
    # A further call would be a good part of what this costs.
    return _SIZED_KEYS[field] + (_BYTE[size] if size < 1 << 7 else varint(size)) + value
