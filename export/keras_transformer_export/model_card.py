"""README.md of a bundle."""

from __future__ import annotations

from keras_transformer_export.bundle import Description
from keras_transformer_export.parity_report import ParityReport, PrecisionReport

ONNX_USE = """## Use

```python
from keras_transformer_export.runtime import OnnxTranslator

print(OnnxTranslator("model.onnx").translate(["{example}"])[0][0].text)
```

`model.onnx` takes and gives texts, and works alone; `model.ids.onnx` takes and gives ids, without
custom operators. `export/README.md` of keras-transformer has the lines for plain ONNX Runtime.
"""
SAVED_MODEL_USE = """`saved_model/` is a SavedModel for plain TensorFlow, and for TensorFlow
Serving with the signature `serving_default`:

```python
import tensorflow as tf
import tensorflow_text

loaded = tf.saved_model.load("saved_model")
print(loaded.translate(["{example}"])["texts"].numpy()[0, 0].decode())
```
"""
SMALLER_USE = "`model.{0}.onnx` and `model.ids.{0}.onnx` are the same in {0}, smaller."
SPLIT_USE = """`encoder.onnx` and `decoder_step.onnx` are the parts for a loop of your own;
their inputs and outputs stand in `manifest.json`.
"""


def model_card(description: Description, report: ParityReport) -> str:
    """Return what a user of the bundle should know, as Markdown."""
    card = description.card
    facts = {
        "Data": card.data,
        "Licence": card.licence,
        "Quality": card.metric,
        "Made with": f"`{card.command}`" if card.command else "",
        "Search": f"{description.search}, {description.precision}",
        "Vocabulary": (
            f"{description.source_vocab_size} source and {description.target_vocab_size} target ids"
        ),
        "Exported": description.created,
    }
    return "\n".join(
        [
            f"# {card.name or 'A keras-transformer model'}\n",
            *(f"- **{name}**: {text}" for name, text in facts.items() if text),
            "",
            *_use(description, report),
            "## Proof\n",
            *_proof(report),
            "",
            "Versions: " + ", ".join(f"{n} {v}" for n, v in description.packages.items()) + ".",
            "",
        ]
    )


def _use(description: Description, report: ParityReport) -> list[str]:
    parts = []
    example = next((e.source for e in report.examples if e.source.isalpha()), "a text")
    if "model.onnx" in description.signatures:
        parts.append(ONNX_USE.format(example=example))
    parts += [SMALLER_USE.format(found.precision) + "\n" for found in report.precisions]
    if "encoder.onnx" in description.signatures:
        parts.append(SPLIT_USE)
    if "saved_model" in description.signatures:
        parts.append(SAVED_MODEL_USE.format(example=example))
    return parts


def _proof(report: ParityReport) -> list[str]:
    sizes = ", ".join(map(str, report.batch_sizes))
    beams = ", ".join(map(str, report.beam_sizes))
    lines = [
        f"{report.sentences} texts in batches of {sizes}, with beams of {beams}, through the Keras "
        "model and:\n"
    ]
    for name, runtime in report.runtimes.items():
        ties = f", {len(runtime.ties)} ties" if runtime.ties else ""
        lines.append(
            f"- `{name}`: equal ids and texts{ties}, scores within "
            f"{runtime.max_score_difference:.1e}"
        )
    if report.max_logit_difference is not None:
        lines.append(f"- logits within {report.max_logit_difference:.1e} of the largest")
    return lines + [precision_line(found) for found in report.precisions]


def precision_line(report: PrecisionReport) -> str:
    """Say what a precision costs and brings, as an item of a list."""
    share = report.equal_to_float32 / report.sentences
    quality = ""
    if report.metric is not None:
        quality = (
            f", {report.metric.upper()} {report.metric_value:.2f} "
            f"(float32 {report.metric_float32:.2f})"
        )
    return (
        f"- {report.precision}: {report.size_ratio[f'model.{report.precision}.onnx']:.0%} of the "
        f"size, {share:.0%} of {report.sentences} texts as in float32{quality}, "
        f"{report.tokens_per_second / report.tokens_per_second_float32:.2f} times as fast"
    )
