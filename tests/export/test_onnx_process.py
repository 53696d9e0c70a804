import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from keras_transformer_export.onnx_process import run_apart

ECHO = """<ir_version: 8, opset_import: ["" : 18]>
echo (string[B] texts, float[N] numbers) => (string[B] same, float[N] negative) {
    same = Identity (texts)
    negative = Neg (numbers)
}"""


def test_texts_and_numbers_come_back(tmp_path):
    onnx.save(parse_model(ECHO), tmp_path / "echo.onnx")
    texts = ["", " a ", "日本 😀\n"]
    numbers = np.array([1.5, float("inf")], "float32")
    first, second = run_apart(
        tmp_path / "echo.onnx",
        [{"texts": texts, "numbers": numbers}, {"texts": ["b"], "numbers": numbers[:0]}],
    )
    assert first["same"].tolist() == texts
    assert first["negative"].tolist() == (-numbers).tolist()
    assert second["same"].tolist() == ["b"]
    assert second["negative"].size == 0


def test_a_model_that_cannot_run_is_named_with_the_reason(tmp_path):
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    with pytest.raises(RuntimeError, match=r"ONNX Runtime cannot run damaged\.onnx: .*[Pp]rotobuf"):
        run_apart(tmp_path / "damaged.onnx", [{}])
