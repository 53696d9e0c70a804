"""Just enough of the protobuf wire format to walk through a SentencePiece model."""

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
