"""SentencePiece inside the ONNX graph: texts to ids before the search, ids to texts after it."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, helper, numpy_helper
from onnx.parser import parse_graph

from keras_transformer.text.protobuf import bytes_field, fields
from keras_transformer.text.unknowns import Unknowns

CONTRIB = "ai.onnx.contrib"
# Fields of a SentencePiece model, and of its pieces and its normalizer what only encoding needs.
PIECES_FIELD, NORMALIZER_FIELD = 1, 3
SCORE_FIELD = TABLE_FIELD = 2

# The end id comes from the tokenizer (add_eos).
PIECES = """
    encode_pieces, encode_splits = SentencepieceTokenizer
        (texts, encode_nbest, encode_alpha, encode_no, encode_yes, encode_no)
    encode_all = Cast <to = 7> (encode_pieces)
"""
# The same where the vocabulary is not SentencePiece's own: `Unknowns.apply`, on all rows as one.
# No unknown stretch reaches from one row into the next, because of the end ids.
SETTLED_PIECES = """
    settle_pieces, settle_splits = SentencepieceTokenizer
        (texts, encode_nbest, encode_alpha, encode_no, encode_yes, encode_no)
    settle_ids = Cast <to = 7> (settle_pieces)
    settle_unknown = Gather (settle_stretches, settle_ids)
    settle_but_last = Slice (settle_unknown, encode_0, encode_last)
    settle_but_first = Slice (settle_unknown, encode_1, encode_end)
    settle_before = Concat <axis = 0> (encode_no, settle_but_last)
    settle_after = Concat <axis = 0> (settle_but_first, encode_no)
    settle_continues = And (settle_unknown, settle_before)
    settle_is_continued = And (settle_unknown, settle_after)
    settle_alone = Not (settle_is_continued)
    settle_inside = Less (settle_ids, settle_vocab_size)
    settle_known = And (settle_inside, settle_alone)
    settle_values = Where (settle_known, settle_ids, settle_unk)
    settle_keep = Not (settle_continues)
    settle_counted = Cast <to = 7> (settle_keep)
    settle_counted_from_0 = Concat <axis = 0> (encode_0, settle_counted)
    settle_so_far = CumSum (settle_counted_from_0, encode_zero)
    encode_all = Compress <axis = 0> (settle_values, settle_keep)
    encode_splits = Gather (settle_so_far, settle_splits)
"""
# An empty batch has no longest row, hence the 1.
ENCODE = """
encode (string[B] texts) => (int64[B,S] source_ids) {
    PIECES
    encode_starts = Slice (encode_splits, encode_0, encode_last)
    encode_ends = Slice (encode_splits, encode_1, encode_end)
    encode_lengths = Sub (encode_ends, encode_starts)
    encode_lengths_and_1 = Concat <axis = 0> (encode_lengths, encode_1)
    encode_longest = ReduceMax <keepdims = 0> (encode_lengths_and_1)
    encode_columns = Range (encode_zero, encode_longest, encode_one)
    encode_row_lengths = Unsqueeze (encode_lengths, encode_1)
    encode_real = Less (encode_columns, encode_row_lengths)
    encode_row_starts = Unsqueeze (encode_starts, encode_1)
    encode_flat = Add (encode_columns, encode_row_starts)
    encode_inside = Where (encode_real, encode_flat, encode_zero)
    encode_gathered = Gather (encode_all, encode_inside)
    source_ids = Where (encode_real, encode_gathered, encode_pad)
}
"""

# SentencepieceDecoder takes one row, without what stands behind the end.
DECODE = """
decode (int64[B,n,T] ids) => (string[B,n] translations) {
    decode_outer = Shape <start = 0, end = 2> (ids)
    decode_count = ReduceProd <keepdims = 1> (decode_outer)
    decode_length = Shape <start = 2, end = 3> (ids)
    decode_matrix = Concat <axis = 0> (decode_count, decode_length)
    decode_rows = Reshape <allowzero = 1> (ids, decode_matrix)
    decode_is_end = Equal (decode_rows, decode_eos)
    decode_ends = Cast <to = 6> (decode_is_end)
    decode_ends_so_far = CumSum (decode_ends, decode_axis)
    decode_open = Equal (decode_ends_so_far, decode_none)
    decode_cells = Unsqueeze (decode_rows, decode_last)
    decode_same = Equal (decode_cells, decode_skipped)
    decode_hits = Cast <to = 6> (decode_same)
    decode_skips = ReduceMax <keepdims = 0> (decode_hits, decode_last)
    decode_spoken = Equal (decode_skips, decode_none)
    decode_content = And (decode_open, decode_spoken)
    decode_trips = Squeeze (decode_count)
    decode_texts = Loop (decode_trips, decode_yes) <body = decode_row
        (int64 decode_i, bool decode_go) => (bool decode_go_on, string decode_text) {
        decode_go_on = Identity (decode_go)
        decode_row_ids = Gather (decode_rows, decode_i)
        decode_row_content = Gather (decode_content, decode_i)
        decode_row_pieces = Compress <axis = 0> (decode_row_ids, decode_row_content)
        decode_row_text = SentencepieceDecoder (decode_row_pieces)
        decode_text = Reshape (decode_row_text, decode_scalar)
    }>
    translations = Reshape <allowzero = 1> (decode_texts, decode_outer)
}
"""


def add_text_nodes(
    model: ModelProto,
    source: bytes,
    target: bytes,
    *,
    pad_id: int,
    eos_id: int,
    skipped_ids: Sequence[int],
) -> ModelProto:
    """Give a model of ids texts for inputs and outputs.

    Encoding and decoding equal `Tokenizer.encode` (with the end id) and `Tokenizer.decode` for
    every text of Unicode scalar values except U+0000. A rule for unknown pieces is read from the
    SentencePiece model of the source side.

    Args:
        model: inputs `source_ids` int64 [B, S] and others, outputs `ids` int64 [B, n, T] and
            others; it is not changed.
        source: serialized SentencePiece model of the source side; it appends its own end id.
        target: serialized SentencePiece model of the target side.
        pad_id: fills rows of source ids behind their end.
        eos_id: ends a row of target ids.
        skipped_ids: left out when decoding: `Tokenizer.skipped_ids` of the target side.

    Returns:
        A model with input `texts` string [B] in the place of `source_ids`, and an additional
        first output `translations` string [B, n]. (ONNX allows no output named as an input.)
    """
    unknowns = Unknowns.read(source)
    encode = _graph(
        ENCODE.replace("PIECES", PIECES if unknowns is None else SETTLED_PIECES),
        "SentencepieceTokenizer",
        source,
        _encode_constants(pad_id) | ({} if unknowns is None else _settle_constants(unknowns)),
    )
    decode = _graph(
        DECODE,
        "SentencepieceDecoder",
        decoding_only(target),
        _decode_constants(eos_id, skipped_ids),
    )
    core = model.graph
    inputs = [encode.input[0], *(value for value in core.input if value.name != "source_ids")]
    graph = helper.make_graph(
        [*encode.node, *core.node, *decode.node],
        "translate",
        inputs,
        [decode.output[0], *core.output],
        [*encode.initializer, *core.initializer, *decode.initializer],
    )
    joined = ModelProto()
    joined.CopyFrom(model)
    joined.graph.CopyFrom(graph)
    joined.opset_import.append(helper.make_opsetid(CONTRIB, 1))
    onnx.checker.check_model(joined)
    return joined


def decoding_only(tokenizer: bytes) -> bytes:
    """Return a SentencePiece model that decodes as before, cannot encode, and is much smaller.

    Scores of pieces are left out. The table by which texts are normalized, a quarter of a megabyte,
    becomes the shortest there is: SentencePiece writes a line on the screen where there is none.
    """
    kept, position = [], 0
    for number, start, end in fields(tokenizer):
        content = tokenizer[start:end]
        if number == PIECES_FIELD:
            kept.append(bytes_field(number, _without(content, SCORE_FIELD)))
        elif number == NORMALIZER_FIELD:
            rest = _without(content, TABLE_FIELD)
            kept.append(bytes_field(number, rest + bytes_field(TABLE_FIELD, _shortest_table())))
        else:
            kept.append(tokenizer[position:end])
        position = end
    return b"".join(kept)


def _shortest_table() -> bytes:
    """A normalization table of one rule, for a character of private use."""
    from sentencepiece import SentencePieceNormalizer, set_min_log_level

    set_min_log_level(2)  # it logs what it builds
    spec = SentencePieceNormalizer(norm_map=[("\ue000", "\ue001")]).serialized_normalizer_spec()
    return next(spec[start:end] for number, start, end in fields(spec) if number == TABLE_FIELD)


def _without(message: bytes, dropped: int) -> bytes:
    kept, position = [], 0
    for number, _, end in fields(message):
        if number != dropped:
            kept.append(message[position:end])
        position = end
    return b"".join(kept)


def _graph(
    text: str, operator: str, tokenizer: bytes, constants: dict[str, np.ndarray]
) -> GraphProto:
    graph = parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in constants.items())
    _give_tokenizer(graph, operator, tokenizer)
    return graph


def _give_tokenizer(graph: GraphProto, operator: str, tokenizer: bytes) -> None:
    for node in graph.node:
        if node.op_type == operator:
            node.domain = CONTRIB
            node.attribute.append(helper.make_attribute("model", tokenizer))
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                _give_tokenizer(attribute.g, operator, tokenizer)


def _encode_constants(pad_id: int) -> dict[str, np.ndarray]:
    return {
        "encode_nbest": np.array([0]),
        "encode_alpha": np.array([0], "float32"),
        "encode_no": np.array([False]),
        "encode_yes": np.array([True]),
        "encode_0": np.array([0]),
        "encode_1": np.array([1]),
        "encode_last": np.array([-1]),
        "encode_end": np.array([np.iinfo("int64").max]),
        "encode_zero": np.array(0),
        "encode_one": np.array(1),
        "encode_pad": np.array(pad_id),
    }


def _settle_constants(unknowns: Unknowns) -> dict[str, np.ndarray]:
    return {
        "settle_stretches": np.array(unknowns.stretches),
        "settle_vocab_size": np.array(unknowns.vocab_size),
        "settle_unk": np.array(unknowns.unk_id),
    }


def _decode_constants(eos_id: int, skipped_ids: Sequence[int]) -> dict[str, np.ndarray]:
    return {
        "decode_skipped": np.array(skipped_ids, "int64"),
        "decode_last": np.array([-1]),
        "decode_eos": np.array(eos_id),
        "decode_none": np.array(0, "int32"),
        "decode_axis": np.array(1),
        "decode_yes": np.array(True),
        "decode_scalar": np.array([], "int64"),
    }
