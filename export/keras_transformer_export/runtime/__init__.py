"""Translation with exported files: `OnnxTranslator` needs no TensorFlow."""

from keras_transformer_export.runtime.onnx_translator import OnnxTranslator

__all__ = ["OnnxTranslator"]
