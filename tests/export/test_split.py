"""The two files of people who drive the loop themselves, and the details of outputs."""

import numpy as np
import onnx
import pytest

from keras_transformer.decoding.details import details_of
from keras_transformer.id_rows import pad_rows
from keras_transformer_export.onnx_model import convert_search
from keras_transformer_export.parity import ParityError
from keras_transformer_export.split import DECODER, convert_split
from keras_transformer_export.split_proof import decode, prove_split

WORDS = ["face", "abcdefabc", "b", "", "deadbeef"]


@pytest.fixture(scope="module")
def open_session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3

    def opened(model):
        contents = model.SerializeToString()
        return onnxruntime.InferenceSession(contents, options, ["CPUExecutionProvider"])

    return opened


def ids_of(translator, texts):
    rows = [[*row, translator.config.eos_id] for row in translator.source.encode(texts)]
    return pad_rows(rows, translator.config.pad_id)


def named(session, feeds):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_a_loop_around_encoder_and_decoder_step_is_greedy_search(translator, tmp_path):
    parts = convert_split(translator.model)
    for name, part in parts.items():
        onnx.checker.check_model(part.model, full_check=True)
        onnx.save(part.model, tmp_path / name)
    source_ids = ids_of(translator, WORDS)
    expected = translator.search(source_ids).ids[:, 0]
    found = decode(tmp_path, source_ids, translator.config, expected.shape[1])
    np.testing.assert_array_equal(found, expected)
    prove_split(translator, tmp_path, WORDS)
    other = onnx.load(tmp_path / DECODER)
    for tensor in other.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(-array, tensor.name))
    onnx.save(other, tmp_path / DECODER)
    with pytest.raises(ParityError, match="other rows of 5"):
        prove_split(translator, tmp_path, WORDS)


def test_details_are_those_of_the_full_model_and_agree_with_the_scores(
    make_translator, open_session
):
    translator = make_translator(0, output_bias=True, num_decoder_layers=1)
    conversion = convert_search(translator.model, ("log_probs", "cross_attention"))
    session = open_session(conversion.model)
    source_ids = ids_of(translator, WORDS)
    options = {
        "beam_size": np.array(3),
        "num_hypotheses": np.array(2),
        "length_penalty": np.array(0, "f"),
    }
    found = named(session, {"source_ids": source_ids.astype("int64"), **options})
    ids = found["ids"]
    real = ids != translator.config.pad_id
    assert real.any(axis=-1).all()
    expected = details_of(
        translator.model, source_ids, ids.astype("int32"), ("log_probs", "cross_attention")
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5)
    np.testing.assert_allclose(found["log_probs"].sum(axis=-1), found["scores"], atol=1e-5)
    assert not found["log_probs"][~real].any()
    weights = found["cross_attention"]  # [B, n, L, N, T, S]
    sums = weights.sum(axis=-1)
    np.testing.assert_allclose(sums, np.broadcast_to(real[:, :, None, None], sums.shape), atol=1e-5)
    pads = source_ids == translator.config.pad_id
    assert not weights[np.broadcast_to(pads[:, None, None, None, None], weights.shape)].any()
