"""The wire format, beside the protobuf package's own."""

import struct

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from keras_transformer.text.protobuf import (
    bytes_field,
    fields,
    fixed32_field,
    number_field,
    numbers,
    packed,
)

NUMBERS = [0, 1, 127, 128, 300, 2**31 - 1, 2**63 - 1]


def test_fields_are_written_as_protobuf_reads_them():
    message = bytes_field(1, "größe".encode()) + number_field(3, -7) + number_field(5, 9)
    read = FieldDescriptorProto.FromString(message)
    assert (read.name, read.number, read.type) == ("größe", -7, 9)


def test_fields_are_read_as_protobuf_writes_them():
    message = FileDescriptorProto(name="n", public_dependency=[1, 300], package="p" * 200)
    content = {
        n: message.SerializeToString()[a:b] for n, a, b in fields(message.SerializeToString())
    }
    assert content[1] == b"n"
    assert content[2] == b"p" * 200
    assert numbers(content[10]) == [300]  # the last of two, which are not packed


@pytest.mark.parametrize("value", NUMBERS)
def test_numbers_come_back(value):
    ((number, start, end),) = fields(number_field(200, value))
    assert number == 200
    assert numbers(number_field(200, value)[start:end]) == [value]


def test_packed_numbers_come_back():
    assert numbers(packed(NUMBERS)) == NUMBERS
    assert numbers(b"") == []


def test_a_float_has_four_bytes():
    message = fixed32_field(2, struct.pack("<f", 0.5))
    ((number, start, end),) = fields(message)
    assert (number, struct.unpack("<f", message[start:end])) == (2, (0.5,))


def test_bytes_that_end_early_are_refused():
    with pytest.raises(ValueError, match="ends early"):
        numbers(b"\x80")
    with pytest.raises(ValueError, match="ends early"):
        list(fields(bytes_field(1, b"abc")[:-1]))
