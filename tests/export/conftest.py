import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

HEADER = '<ir_version: 8, opset_import: ["" : 18]>\n'


@dataclass
class Rewritten:
    changes: int
    before: onnx.ModelProto
    after: onnx.ModelProto

    def count(self, op_type: str) -> int:
        return sum(node.op_type == op_type for node in _nodes(self.after.graph))

    def body_count(self, op_type: str) -> int:
        """Nodes of this type inside bodies only."""
        return self.count(op_type) - sum(n.op_type == op_type for n in self.after.graph.node)


def _nodes(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


@pytest.fixture
def run_onnx() -> Callable[..., list[np.ndarray]]:
    """Run a model on the CPU: (model, feeds) -> outputs."""
    return run


@pytest.fixture
def rewrite() -> Callable[..., Rewritten]:
    """Apply one pass to a graph in ONNX's text form; outputs before and after must agree."""
    from keras_transformer_export.graph_passes import Graph

    def apply(graph_text, one_pass, *feeds, constants=None, tolerance=0.0):
        before = parse_model(HEADER + graph_text)
        before.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(array), name)
            for name, array in (constants or {}).items()
        )
        graph = Graph(before)
        changes = one_pass(graph)
        after = graph.to_model()
        onnx.checker.check_model(after, full_check=True)
        for feed in feeds:
            for old, new in zip(run(before, feed), run(after, feed), strict=True):
                assert old.dtype == new.dtype
                np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance)
        return Rewritten(changes, before, after)

    return apply


def spelling_pairs(count: int, seed: int) -> list[tuple[str, str]]:
    """Words of a to f, and their letters: ("face", "F A C E")."""
    generator = random.Random(seed)
    words = ("".join(generator.choices("abcdef", k=generator.randint(1, 9))) for _ in range(count))
    return [(word, " ".join(word.upper())) for word in words]


def build_translator(steps: int, **fields):
    """A tiny model that has partly learned to spell: its outputs differ in length."""
    from keras_transformer import backend

    backend.import_tensorflow()
    from keras_transformer import Tokenizer, Transformer, TransformerConfig, Translator

    pairs = spelling_pairs(64 * max(steps, 1), seed=0)
    source = Tokenizer.train([s for s, _ in pairs], 40, "char", add_dummy_prefix=False)
    target = Tokenizer.train([t for _, t in pairs], 40, "word")
    sizes = {"num_encoder_layers": 1, "num_decoder_layers": 2, "d_model": 16, "d_ff": 32}
    options = {**sizes, "num_heads": 2, "dropout": 0.0, **fields}
    config = TransformerConfig.for_tokenizers("tiny", source, target, **options)
    import keras

    keras.utils.set_random_seed(0)
    model = Transformer(config)
    generator = np.random.default_rng(0)
    for weight in model.weights:
        # Norms that do nothing would hide mistakes in the graph passes.
        if weight.path.endswith(("gamma", "beta", "bias")):
            weight.assign(weight.numpy() + generator.normal(0, 0.2, weight.shape))
    if steps:
        _train(model, source, target, pairs)
    return Translator(model, source, target)


def _train(model, source, target, pairs):
    import keras

    config = model.config
    source_ids = _padded([[*row, config.eos_id] for row in source.encode([s for s, _ in pairs])])
    target_out = _padded([[*row, config.eos_id] for row in target.encode([t for _, t in pairs])])
    target_in = np.roll(target_out, 1, axis=1)
    target_in[:, 0] = config.start_id
    model.compile(
        optimizer=keras.optimizers.Adam(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    weights = (target_out != config.pad_id).astype("float32")
    model.fit((source_ids, target_in), target_out, sample_weight=weights, batch_size=64, verbose=0)


def _padded(rows):
    array = np.zeros((len(rows), max(map(len, rows))), "int32")
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


@pytest.fixture(scope="session")
def translator():
    return build_translator(steps=120)


@pytest.fixture(scope="session", name="make_translator")
def translator_maker():
    """Make a translator of other fields: (steps, **fields)."""
    return build_translator


@pytest.fixture(scope="session")
def assert_same() -> Callable[..., None]:
    """Check hypotheses against those of Keras: only a tie may come out the other way round."""

    def check(expected, received):
        assert [len(row) for row in received] == [len(row) for row in expected]
        ours, theirs = (list(chain(*rows)) for rows in (expected, received))
        scores = np.array([h.score for h in ours])
        np.testing.assert_allclose([h.score for h in theirs], scores, rtol=1e-5, atol=1e-4)
        different = [
            (a, b)
            for a, b in zip(ours, theirs, strict=True)
            if (a.text, a.tokens, a.finished) != (b.text, b.tokens, b.finished)
        ]
        assert all(abs(a.score - b.score) <= 1e-5 for a, b in different), different
        assert len(different) <= 2, different  # two that are swapped

    return check


@pytest.fixture(scope="session")
def words() -> list[str]:
    """Sources the translator was not trained on."""
    return [word for word, _ in spelling_pairs(80, seed=1)]


@pytest.fixture(scope="session")
def bundle_folder(translator, words, tmp_path_factory) -> Path:
    """A whole exported bundle; read only."""
    from keras_transformer_export import export
    from keras_transformer_export.bundle import ModelCard

    folder = tmp_path_factory.mktemp("export") / "bundle"
    card = ModelCard(name="spelling", licence="Made up, for everyone.")
    export(translator, folder, sentences=words, card=card)
    return folder
