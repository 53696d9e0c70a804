"""What `decode.py` compares: engines that decode with the same weights, each in its own process.

Each imports its libraries inside its function, so that the process has nothing else in it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from decode_tasks import ALPHA, Sentence, Setting, Task

from keras_transformer_export.search_inputs import DEFAULTS

Call = Callable[[], Any]
ENCODER, DECODER = "encoder.onnx", "decoder_step.onnx"
KERAS, BASELINE = "ours, Keras", "CTranslate2 float32"


class Engine:
    """A loaded model. `prepare` makes a batch ready to be decoded, which alone is timed."""

    def refusal(self, task: Task) -> str:
        """Return why the task cannot be done, or ''."""
        return ""

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        """Return the call that decodes the batch."""
        raise NotImplementedError

    def rows(self, found: Any) -> list[list[int]]:
        """Return the real tokens of each sentence, end symbol included."""
        raise NotImplementedError


class CTranslate2(Engine):
    """CTranslate2, fed with ids as text."""

    def __init__(self, setting: Setting, compute_type: str, workers: int = 1):
        import ctranslate2

        self.workers = workers  # each decodes a part of the batch
        self.model = ctranslate2.Translator(
            str(setting.ctranslate2),
            compute_type=compute_type,
            inter_threads=workers,
            intra_threads=setting.threads // workers,
        )

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        tokens = [[str(i) for i in sentence.ids] for sentence in batch]
        options = {
            "beam_size": task.beam_size,
            "length_penalty": task.ctranslate2_penalty,
            "max_decoding_length": task.limit(batch),
            "min_decoding_length": task.forced_length or 1,
            "return_end_token": True,
            "max_batch_size": -(-len(batch) // self.workers),
        }
        return lambda: self.model.translate_batch(tokens, **options)

    def rows(self, found: Any) -> list[list[int]]:
        return [[int(token) for token in result.hypotheses[0]] for result in found]


class Ours(Engine):
    """What our engines share: arrays `[B, n, T]` come out, padded."""

    pad_id: int
    inputs: Any  # names of the inputs that the file has, and what is known of them

    def refusal(self, task: Task) -> str:
        needed = {"beam_size": task.beam_size > 1, "min_decoding_length": task.forced_length > 0}
        missing = [name for name, is_needed in needed.items() if is_needed]
        missing = [name for name in missing if name not in self.inputs]
        return f"no input {' and '.join(missing)}" if missing else ""

    def options(self, batch: list[Sentence], task: Task) -> dict[str, Any]:
        """Return the values of those options that the model has."""
        values = {
            "beam_size": task.beam_size,
            "num_hypotheses": 1,
            "length_penalty": ALPHA,
            "max_decoding_length": task.limit(batch),
            "min_decoding_length": task.forced_length,
        }
        return {name: value for name, value in values.items() if name in self.inputs}

    def rows(self, found: Any) -> list[list[int]]:
        best = np.asarray(found)[:, 0]
        return [[int(i) for i in row if i != self.pad_id] for row in best]

    def padded(self, batch: list[Sentence]) -> np.ndarray:
        """Return the ids int64 `[B, S]`."""
        longest = max(len(sentence.ids) for sentence in batch)
        ids = np.full((len(batch), longest), self.pad_id, "int64")
        for row, sentence in zip(ids, batch, strict=True):
            row[: len(sentence.ids)] = sentence.ids
        return ids


class Onnx(Ours):
    """One ONNX file with the whole search in it, fed with ids."""

    def __init__(self, setting: Setting, name: str):
        self.session = open_session(setting, name)
        self.pad_id = setting.special_ids[0]
        inputs = [*self.session.get_inputs(), *self.session.get_overridable_initializers()]
        self.inputs = {one.name: one.type for one in inputs}

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        feeds = {"source_ids": self.padded(batch)}
        for name, value in self.options(batch, task).items():
            is_float = self.inputs[name] == "tensor(float)"
            feeds[name] = np.array(value, "float32" if is_float else "int64")
        return lambda: self.session.run(["ids"], feeds)[0]


class Texts(Ours):
    """`OnnxTranslator`, texts in and out: its tokenizers are timed with it."""

    inputs = DEFAULTS

    def __init__(self, setting: Setting):
        from keras_transformer_export.runtime import OnnxTranslator

        self.translator = OnnxTranslator(setting.bundle, "cpu", setting.threads)
        self.eos_id = setting.special_ids[2]

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        texts = [sentence.text for sentence in batch]
        options: dict[str, Any] = self.options(batch, task)
        options["min_decoding_length"] = task.forced_length or None
        return lambda: self.translator.translate(texts, **options)

    def rows(self, found: Any) -> list[list[int]]:
        return [[*best.tokens, *([self.eos_id] if best.finished else [])] for best, *_ in found]


class Split(Ours):
    """An encoder and a decoder step as two files, and the loop in Python.

    The decoder reads `ids` int64 [B], the newest tokens; `step` int64 scalar; what the encoder
    gives, by its name; and the past, which begins empty and whose next value is the output
    `next_` + its name. It gives `logits` [B, V], in which what may not come is low.
    """

    inputs = ("max_decoding_length",)

    def __init__(self, setting: Setting):
        self.encoder = open_session(setting, ENCODER)
        self.decoder = open_session(setting, DECODER)
        self.pad_id, self.start_id, self.eos_id = setting.special_ids
        self.outputs = [one.name for one in self.decoder.get_outputs()]
        self.past = {
            one.name: one.shape
            for one in self.decoder.get_inputs()
            if f"next_{one.name}" in self.outputs
        }

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        ids, limit = self.padded(batch), task.limit(batch)
        return lambda: self.decode(ids, limit)

    def decode(self, source_ids: np.ndarray, limit: int) -> np.ndarray:
        """Return greedy ids `[B, 1, T]`."""
        rows = len(source_ids)
        names = [one.name for one in self.encoder.get_outputs()]
        memory = dict(zip(names, self.encoder.run(None, {"source_ids": source_ids}), strict=True))
        past = {name: empty(shape, rows) for name, shape in self.past.items()}
        ids, finished, columns = np.full(rows, self.start_id), np.zeros(rows, bool), []
        while len(columns) < limit and not finished.all():
            feeds = {"ids": ids, "step": np.array(len(columns)), **memory, **past}
            found = dict(zip(self.outputs, self.decoder.run(None, feeds), strict=True))
            past = {name: found[f"next_{name}"] for name in past}
            ids = np.where(finished, self.pad_id, found["logits"].argmax(axis=-1))
            finished |= ids == self.eos_id
            columns.append(ids)
        return np.stack(columns, axis=1)[:, None]


def empty(shape: list[int | str], rows: int) -> np.ndarray:
    """Return a past of no positions: of the sizes that are not numbers the first is the batch."""
    sizes = [size if isinstance(size, int) else 0 for size in shape]
    return np.zeros([rows, *sizes[1:]], "float32")


class Saved(Ours):
    """The SavedModel in plain TensorFlow, which takes texts: its tokenizer is timed with it."""

    def __init__(self, setting: Setting):
        tf = tensorflow(setting.threads)
        import tensorflow_text  # noqa: F401  # pyright: ignore[reportUnusedImport]  # its operators

        self.loaded = tf.saved_model.load(str(setting.bundle / "saved_model"))
        self.inputs = self.loaded.signatures["serving_default"].structured_input_signature[1]
        self.pad_id = setting.special_ids[0]
        self.constant = tf.constant

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        feeds = {"texts": self.constant([sentence.text for sentence in batch])}
        for name, value in self.options(batch, task).items():
            feeds[name] = self.constant(value, self.inputs[name].dtype)
        return lambda: self.loaded.translate(**feeds)["ids"].numpy()


class Keras(Ours):
    """`Translator.search`: the answers that the others are compared with."""

    def __init__(self, setting: Setting):
        tensorflow(setting.threads)
        from keras_transformer import search_options
        from keras_transformer.translator import Translator

        self.translator = Translator.load(setting.run)
        self.pad_id = self.translator.config.pad_id
        self.search_options = getattr(search_options, "SearchOptions", None)
        of = self.search_options or Translator.search
        self.inputs = inspect.signature(of).parameters

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        ids = self.padded(batch)
        search: Any = self.translator.search
        options = {name: value or None for name, value in self.options(batch, task).items()}
        if self.search_options is None:
            return lambda: search(ids, **options).ids
        chosen = self.search_options(**options)
        return lambda: search(ids, chosen).ids


class Recompute(Ours):
    """The plain loop without a cache: the whole prefix through a compiled model for each token."""

    inputs = ("max_decoding_length",)

    def __init__(self, setting: Setting):
        tensorflow(setting.threads)
        from keras_transformer import backend
        from keras_transformer.decoding.reference import predict
        from keras_transformer.translator import Translator

        model = Translator.load(setting.run).model
        self.config, self.predict, self.pad_id = model.config, predict, model.config.pad_id
        self.forward = backend.compile(
            lambda source_ids, target_in: model((source_ids, target_in), training=False),
            [((None, None), "int32")] * 2,
            model.variables,
        )

    def prepare(self, batch: list[Sentence], task: Task) -> Call:
        ids = self.padded(batch).astype("int32")
        limits = [task.limit(batch)] * len(batch)
        return lambda: self.predict(self.forward, ids, self.config, limits)[:, None]


def open_session(setting: Setting, name: str) -> Any:
    """Return an ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = setting.threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting.spin)))
    return onnxruntime.InferenceSession(
        setting.bundle / name, options, providers=["CPUExecutionProvider"]
    )


def tensorflow(threads: int) -> Any:
    """Return TensorFlow, with as many threads as the others."""
    from keras_transformer import backend

    tf = backend.import_tensorflow()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return tf


@dataclass(frozen=True)
class Contestant:
    """How an engine is made, in a process with `environment`.

    Attributes:
        make: loads the engine.
        files: what it needs of the bundle; skipped where one is missing.
        slow: it decodes a part of the batches only.
        timed: False: it decodes once, for its answers.
        environment: variables of its process.
    """

    make: Callable[[Setting], Engine]
    files: tuple[str, ...] = ()
    slow: bool = False
    timed: bool = True
    environment: dict[str, str] = field(default_factory=dict)


# It says nothing but errors.
ON_TENSORFLOW = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ABSL_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
}
FLOAT32, INT8 = "model.ids.onnx", "model.ids.int8.onnx"
CONTESTANTS = {
    BASELINE: Contestant(lambda setting: CTranslate2(setting, "float32")),
    "CTranslate2 float32, workers": Contestant(
        lambda setting: CTranslate2(setting, "float32", setting.threads)
    ),
    "CTranslate2 int8": Contestant(lambda setting: CTranslate2(setting, "int8")),
    "ours, ONNX float32": Contestant(lambda setting: Onnx(setting, FLOAT32), (FLOAT32,)),
    "ours, ONNX int8": Contestant(lambda setting: Onnx(setting, INT8), (INT8,)),
    "ours, OnnxTranslator": Contestant(Texts, ("model.onnx",)),
    "ours, ONNX split": Contestant(Split, (ENCODER, DECODER)),
    "ours, SavedModel": Contestant(Saved, ("saved_model",), True, environment=ON_TENSORFLOW),
    KERAS: Contestant(Keras, timed=False, environment=ON_TENSORFLOW),
    "plain recompute loop": Contestant(Recompute, slow=True, environment=ON_TENSORFLOW),
}
NAMES = "only these (and the baseline): " + ", ".join(CONTESTANTS)
