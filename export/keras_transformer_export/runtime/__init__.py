"""Translation where only ONNX Runtime is installed."""

from keras_transformer_export.runtime.onnx_translator import OnnxTranslator

__all__ = ["OnnxTranslator"]
