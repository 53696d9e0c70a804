"""Just enough of the protobuf wire format to read and rewrite a SentencePiece model."""

from collections.abc import Iterator


def fields(message: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields (field number, start, end) of the content of each field, in order.

    Raises:
        ValueError: when the bytes end inside a field or are not protobuf.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == 0:
            _, end = _varint(message, position)
        elif wire_type == 1:
            end = position + 8
        elif wire_type == 2:
            length, position = _varint(message, position)
            end = position + length
        elif wire_type == 5:
            end = position + 4
        else:
            raise ValueError("not a protobuf message")
        if end > len(message):
            raise ValueError("it ends early")
        yield tag >> 3, position, end
        position = end


def numbers(content: bytes) -> list[int]:
    """Returns the integers of a field: one, or as many as are packed into it.

    Raises:
        ValueError: when the bytes end inside an integer.
    """
    found: list[int] = []
    position = 0
    while position < len(content):
        value, position = _varint(content, position)
        found.append(value)
    return found


def number_field(number: int, value: int) -> bytes:
    """Returns a field with one integer, which may be negative."""
    return _packed(number << 3) + _packed(value)


def bytes_field(number: int, content: bytes) -> bytes:
    """Returns a field with a text, a message or packed integers."""
    return _packed(number << 3 | 2) + _packed(len(content)) + content


def fixed32_field(number: int, content: bytes) -> bytes:
    """Returns a field of 4 bytes: a float."""
    return _packed(number << 3 | 5) + content


def packed(values: list[int]) -> bytes:
    """Returns the inverse of `numbers`."""
    return b"".join(map(_packed, values))


def _packed(value: int) -> bytes:
    value &= (1 << 64) - 1  # two's complement
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            raise ValueError("it ends early")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not a protobuf message")
