"""parity.json: what an export was proven on, and how far apart its runtimes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keras_transformer_export.bundle import Bundle, BundleError, Precision

REPORT = "parity.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tie(_Record):
    """Two hypotheses that the full Keras model scores alike, so that rounding chose."""

    source: str
    keras_ids: list[int]
    other_ids: list[int]
    keras_score: float
    other_score: float


class RuntimeReport(_Record):
    """How one exported file compares with Keras."""

    compared: int
    ties: list[Tie] = Field(default_factory=list)
    max_score_difference: float = 0.0


class Example(_Record):
    """A source and what the Keras model made of it: `verify_bundle` runs it again."""

    source: str
    source_ids: list[int]
    beam_size: int
    text: str
    ids: list[int]
    score: float


class PrecisionReport(_Record):
    """What a change of precision cost and brought, in greedy search on the CPU.

    `metric` is that of the training recipe, None where no references were at hand. Tokens a
    second are of batches of 32, with all cores. `examples` are the answers of this precision.
    """

    precision: Precision
    bytes: dict[str, int]
    size_ratio: dict[str, float]
    sentences: int
    equal_to_float32: int
    metric: str | None = None
    metric_float32: float | None = None
    metric_value: float | None = None
    tokens_per_second_float32: float
    tokens_per_second: float
    examples: list[Example]


class GraphReport(_Record):
    """What became of the ONNX graph between the converter and the file, nodes of bodies included.

    `passes` has the number of changes of each pass, in the order they ran.
    """

    nodes_before: int
    nodes_after: int
    passes: dict[str, int]

    @classmethod
    def of(cls, conversion: Any) -> GraphReport:
        """Return the report of a `Conversion`; passes that ran more than once are summed."""
        passes: dict[str, int] = {}
        for name, changes in conversion.passes:
            passes[name] = passes.get(name, 0) + changes
        return cls(
            nodes_before=conversion.nodes_before,
            nodes_after=conversion.nodes_after,
            passes=passes,
        )


class ParityReport(_Record):
    """What was compared, and how large the differences are.

    `max_logit_difference` is relative to the largest logit, teacher-forced, from the ONNX graph;
    None where no ONNX file was made. Scores of a file may differ from those of Keras by
    `score_tolerance`; two outputs are a tie where the full model's scores of them differ by no
    more than `tie_tolerance`, as a share of the score where that is above 1. (Reports from before
    they were written have None.)
    """

    sentences: int
    batch_sizes: list[int]
    beam_sizes: list[int]
    runtimes: dict[str, RuntimeReport]
    score_tolerance: float | None = None
    tie_tolerance: float | None = None
    max_logit_difference: float | None = None
    graph: GraphReport | None = None
    packages: dict[str, str]
    examples: list[Example]
    precisions: list[PrecisionReport] = Field(default_factory=list)

    def examples_of(self, precision: Precision) -> list[Example]:
        """The answers that a file of this precision gave."""
        known = {report.precision: report.examples for report in self.precisions}
        return known.get(precision, self.examples)

    def write(self, folder: Path) -> None:
        """Write `parity.json` into a folder."""
        text = json.dumps(self.model_dump(), indent=1, ensure_ascii=False)
        (folder / REPORT).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, bundle: Bundle) -> ParityReport:
        """Read the report of a bundle.

        Raises:
            BundleError: it is missing, changed, or no such report.
        """
        try:
            return cls.model_validate_json(bundle.read(REPORT))
        except ValidationError as error:
            raise BundleError(
                f"{bundle.folder / REPORT} must be a parity report ({error.errors()[0]['msg']})."
            ) from error
