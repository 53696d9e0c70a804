"""Translation with exported files; `OnnxTranslator` needs no TensorFlow."""

from keras_transformer_export.runtime.onnx_translator import OnnxTranslator
from keras_transformer_export.runtime.saved_model_translator import SavedModelTranslator

__all__ = ["OnnxTranslator", "SavedModelTranslator"]
