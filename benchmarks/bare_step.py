"""How long ONNX Runtime takes for the operators of a decoding step alone: the bound of any graph.

    python benchmarks/bare_step.py exported/multi30k

A Loop written by hand does what no greedy step of the model's sizes can do without: the products
of each decoder layer, cached attention, norms, and the projection to the vocabulary, in as few
operators as they take. It chooses no token, keeps no score and looks at no limit. Beside it the
bundle's own file, by the difference of two forced lengths. Both in one process, in turns, with one
sentence; medians in microseconds for a step.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from keras_transformer.config import TransformerConfig

SOURCE = 14  # tokens of the source sentence
SHORT, LONG = 8, 40  # tokens of the two outputs


def main() -> None:
    """Print a row for each number of threads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--preset", default="tiny", help="of the bundle's model")
    parser.add_argument("--vocab-size", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    sizes = {"source_vocab_size": options.vocab_size, "target_vocab_size": options.vocab_size}
    config = TransformerConfig.preset(options.preset, **sizes)
    print("| threads | bare loop | the file |\n|---|---|---|")
    for threads in (1, 2):
        bare = session(bare_loop(config).SerializeToString(), threads)
        whole = session(str(options.bundle / "model.ids.onnx"), threads)
        ids = np.random.default_rng(0).integers(4, config.source_vocab_size, (1, SOURCE))
        ids[0, -1] = config.eos_id
        contestants = (
            lambda length, bare=bare: bare.run(None, {"length": np.array(length)}),
            lambda length, whole=whole, ids=ids: whole.run(None, forced(ids, length)),
        )
        found = [
            median(of_one) for of_one in zip(*measured(contestants, options.rounds), strict=True)
        ]
        print(f"| {threads} | " + " | ".join(f"{1e6 * seconds:.0f}" for seconds in found) + " |")


def measured(contestants: tuple[Callable[[int], Any], ...], rounds: int) -> list[tuple[float, ...]]:
    """Return the seconds of a step of each, in each round."""

    def step(call: Callable[[int], Any]) -> float:
        times = []
        for length in (SHORT, LONG):
            begun = time.perf_counter()
            call(length)
            times.append(time.perf_counter() - begun)
        return (times[1] - times[0]) / (LONG - SHORT)

    for call in contestants:
        step(call)
    return [
        tuple(median(step(call) for _ in range(5)) for call in contestants) for _ in range(rounds)
    ]


def forced(ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Return the inputs for an output of just so many tokens."""
    limit = np.array(length, "int64")
    return {
        "source_ids": ids.astype("int64"),
        "max_decoding_length": limit,
        "min_decoding_length": limit,
    }


def session(model: str | bytes, threads: int) -> onnxruntime.InferenceSession:
    """Return a session on the CPU whose waiting threads spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Body:
    """The nodes and weights of the Loop's body, random."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._chance = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        return self.constant(self._chance.normal(0, 0.05, shape).astype("float32"))

    def constant(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs), names, **attributes))
        return names

    def linear(self, x: str, size: int, width: int, addend: str | None = None) -> str:
        return self.add("Gemm", x, self.weight(size, width), addend or self.weight(width))[0]

    def shaped(self, x: str, *shape: int) -> str:
        return self.add("Reshape", x, self.constant(np.array(shape, "int64")))[0]


def bare_loop(config: TransformerConfig) -> ModelProto:
    """Return the Loop: `length` steps of greedy search without the search."""
    body, width = _Body(), config.d_model
    heads, size = config.num_heads, config.d_model // config.num_heads
    floats, cache = TensorProto.FLOAT, [1, heads, None, size]
    states: dict[str, tuple[list[int | None], str]] = {}

    def normed(x: str) -> str:
        return body.add("LayerNormalization", x, body.weight(width), body.weight(width))[0]

    def attended(query: str, key: str, value: str) -> str:
        weights = body.add("Softmax", body.add("MatMul", query, key)[0], axis=-1)[0]
        return body.shaped(body.add("MatMul", weights, value)[0], -1, width)

    x = body.add("Identity", "x")[0]
    for layer in range(config.num_decoder_layers):
        sizes = body.constant(np.array([heads] * 3))
        packed = body.shaped(body.linear(x, width, 3 * width), -1, 3 * heads, 1, size)
        query, key, value = body.add("Split", packed, sizes, outputs=3, axis=1)
        for name, new in ((f"key{layer}", key), (f"value{layer}", value)):
            states[name] = (cache, body.add("Concat", name, new, axis=2)[0])
        keys = body.add("Transpose", states[f"key{layer}"][1], perm=[0, 1, 3, 2])[0]
        context = attended(query, keys, states[f"value{layer}"][1])
        x = normed(body.linear(context, width, width, x))
        query = body.shaped(body.linear(x, width, width), -1, heads, 1, size)
        memory = body.weight(1, heads, size, SOURCE), body.weight(1, heads, SOURCE, size)
        x = normed(body.linear(attended(query, *memory), width, width, x))
        hidden = body.add("Relu", body.linear(x, width, config.d_ff))[0]
        x = normed(body.linear(hidden, config.d_ff, width, x))
    table = body.weight(config.target_vocab_size, width)
    logits = body.add("Gemm", x, table, transB=1)[0]
    chosen = body.add("Slice", logits, *(body.constant(np.array([i])) for i in (0, width, 1)))[0]
    states = {"x": ([1, width], chosen), **states}
    return _looped(body, states, floats)


def _looped(
    body: _Body, states: dict[str, tuple[list[int | None], str]], floats: int
) -> ModelProto:
    declared = {
        name: helper.make_tensor_value_info(name, floats, shape)
        for name, (shape, _) in states.items()
    }
    results = [helper.make_tensor_value_info(out, floats, shape) for shape, out in states.values()]
    body.nodes.append(helper.make_node("Identity", ["goes_on"], ["still"]))
    graph = helper.make_graph(
        body.nodes,
        "step",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            *declared.values(),
        ],
        [helper.make_tensor_value_info("still", TensorProto.BOOL, []), *results],
        body.weights,
    )
    first = [
        numpy_helper.from_array(
            np.zeros([0 if n is None else n for n in shape], "float32"), f"{name}_0"
        )
        for name, (shape, _) in states.items()
    ]
    loop = helper.make_node(
        "Loop",
        ["length", "true", *(tensor.name for tensor in first)],
        [f"{name}_end" for name in states],
        body=graph,
    )
    whole = helper.make_graph(
        [loop],
        "loop",
        [helper.make_tensor_value_info("length", TensorProto.INT64, [])],
        [helper.make_tensor_value_info("x_end", floats, states["x"][0])],
        [*first, numpy_helper.from_array(np.array(True), "true")],
    )
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


if __name__ == "__main__":
    main()
