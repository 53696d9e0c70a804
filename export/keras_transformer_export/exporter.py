"""One call from a `Translator` to a proven bundle."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PureWindowsPath
from typing import Any

from keras_transformer.hypothesis import Hypothesis
from keras_transformer.id_rows import pad_rows
from keras_transformer_export import onnx_model, parity, saved_model, split
from keras_transformer_export.bundle import (
    MANIFEST,
    METADATA_KEY,
    Bundle,
    BundleError,
    Description,
    ModelCard,
    Precision,
    Signature,
    SpecialIds,
    write_manifest,
)
from keras_transformer_export.folders import written_aside
from keras_transformer_export.logit_proof import max_logit_difference
from keras_transformer_export.model_card import model_card
from keras_transformer_export.onnx_process import run_apart
from keras_transformer_export.outputs import hypotheses
from keras_transformer_export.parity_report import GraphReport, ParityReport
from keras_transformer_export.precision import TWINS, file_name
from keras_transformer_export.precision_report import measure_precision
from keras_transformer_export.search_inputs import DEFAULTS, inputs_of
from keras_transformer_export.signatures import signature, signatures
from keras_transformer_export.split_proof import prove_split
from keras_transformer_export.text_nodes import add_text_nodes

FORMATS = ("saved_model", "onnx")
LAYOUTS = ("single", "split")
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "float16")
PACKAGES = (
    "keras", "tensorflow", "tensorflow-text", "tf2onnx", "onnx", "onnxruntime", "onnxruntime-gpu",
    "onnxruntime-extensions", "sentencepiece", "numpy",
)  # fmt: skip
DATA_FILES = (
    "pairs", "source", "target", "validation_pairs", "validation_source", "validation_target",
)  # fmt: skip
ONNX_FILES = ("model.onnx", "model.ids.onnx")
NO_PREFIX = DEFAULTS["target_prefix"]


def export(
    translator: Any,
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
    precisions: Sequence[Precision] = ("float32",),
    *,
    details: Sequence[str] = (),
    layout: str = "single",
    sentences: Sequence[str] | None = None,
    card: ModelCard | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Write a bundle, and prove that every file in it gives what the Keras model gives.

    The bundle is written aside and renamed into place when it is complete and proven: a failure
    leaves nothing, and an old bundle as it was.

    Args:
        translator: a `Translator`.
        folder: where the bundle is to be.
        formats: "saved_model", "onnx" or both.
        precisions: "int8" and "float16" are written beside the ONNX files in float32, which are
            there always. They are no equals of the Keras model: what they cost, in the metric of
            the training recipe, stands in `parity.json`.
        details: further outputs of the ONNX files: "log_probs", the log-probability of each
            token; "cross_attention", where each head looked to predict it.
        layout: "single"; or "split": `encoder.onnx` and `decoder_step.onnx` besides, for people
            who drive the loop themselves.
        sentences: source texts for the proof; None: what the training run held out. Of more than
            500, 500 are used, evenly spaced.
        card: what the model card says of data, licence and quality.
        force: replace a bundle that is there.
        progress: called with a line of text as each step begins.

    Returns:
        The bundle.

    Raises:
        ValueError: no `Translator` of a `Transformer`, an unknown format, precision, detail or
            layout, or one of them without "onnx", a model on another backend than TensorFlow or
            of another type than float32, sentences that are one string or that no runtime can
            carry, or a folder that exists and may not be replaced.
        ParityError: an exported file gives something else than the Keras model.
        RuntimeError: the model cannot be converted.
        OSError: the files cannot be written, as on a full disk.
    """
    twins = _checked_twins(formats, precisions, details, layout)
    _check_translator(translator)
    folder = Path(folder).resolve()
    _check_free(folder, force)
    with written_aside(folder) as aside:
        description = _describe(translator, signatures(formats, ["float32", *twins], details), card)
        chosen = parity.proof_sentences(translator, sentences)
        (aside / "source.model").write_bytes(translator.source.serialized)
        (aside / "target.model").write_bytes(translator.target.serialized)
        runtimes: dict[str, parity.Runtime] = {}
        conversion: dict[str, Any] = {}
        if "saved_model" in formats:
            progress("Writing the SavedModel")
            saved_model.save(translator, aside / "saved_model")
            runtimes["saved_model"] = _saved_model_runtime(aside / "saved_model", description)
        if "onnx" in formats:
            progress("Converting to ONNX")
            conversion = _write_onnx(translator, aside, description, details, chosen)
            for name in ONNX_FILES:
                runtimes[name] = _onnx_runtime(translator, aside / name, description)
        if layout == "split":
            progress("Converting encoder and decoder step")
            description = _with_split(translator, aside, description, chosen)
        progress(f"Comparing with Keras on {len(chosen)} texts")
        report = parity.compare(translator, chosen, runtimes, description.packages)
        measured = []
        for twin in twins:
            progress(f"Making and measuring {twin}")
            _write_twin(translator, aside, description, twin)
            measured.append(measure_precision(translator, aside, twin, sentences, report.examples))
        report = report.model_copy(update={**conversion, "precisions": measured})
        _finish(aside, description, report)
    return Bundle.open(folder)


def _checked_twins(
    formats: Sequence[str], precisions: Sequence[str], details: Sequence[str], layout: str
) -> list[Precision]:
    """Return the precisions besides float32; refuse what is unknown or goes not together."""
    _check_names("formats", formats, FORMATS)
    _check_names("precisions", precisions, PRECISIONS)
    if details:
        _check_names("details", details, tuple(onnx_model.DETAILS))
    _check_names("layout", [layout], LAYOUTS)
    twins: list[Precision] = [name for name in PRECISIONS[1:] if name in precisions]
    if (twins or details or layout == "split") and "onnx" not in formats:
        raise ValueError(
            "formats must have 'onnx' in it for other precisions than float32, details, and the "
            f"layout 'split': a SavedModel has none of these. Received: formats={formats!r}, "
            f"precisions={precisions!r}, details={details!r}, layout={layout!r}"
        )
    return twins


def _check_names(argument: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [given] if isinstance(given, str) else [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(
            f"{argument} must be a sequence of one or more of {', '.join(map(repr, known))}. "
            f"Received: {argument}={given!r}"
        )


def _check_translator(translator: Any) -> None:
    import keras

    from keras_transformer.model import Transformer
    from keras_transformer.translator import Translator

    if not isinstance(translator, Translator):
        raise ValueError(
            "translator must be a Translator. Load one with Translator.load(run_folder). "
            f"Received: translator of type {type(translator).__name__}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The Keras backend must be TensorFlow for an export. Set KERAS_BACKEND=tensorflow and "
            f"load the run again. Received: backend={keras.backend.backend()!r}"
        )
    policy = translator.model.dtype_policy
    if policy.compute_dtype != "float32":
        raise ValueError(
            "The model must compute in float32 for an export. Set keras.config.set_dtype_policy("
            f"'float32') and load the run again. Received: dtype policy {policy.name!r}"
        )
    if not isinstance(translator.model, Transformer):
        raise ValueError(
            "translator must hold a Transformer: RNNSearch is for comparison and is not exported. "
            f"Received: model of type {type(translator.model).__name__}"
        )


def _check_free(folder: Path, force: bool) -> None:
    """Refuse to replace what is there, and with `force` to delete anything but a bundle."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise ValueError(
            f"folder must not exist yet. Choose another, or replace it with force=True (--force). "
            f"Received: folder={str(folder)!r}"
        )
    try:
        bundle = Bundle.open(folder)
    except BundleError as error:
        raise ValueError(
            f"folder must be a bundle to be replaced: anything else is yours to delete. {error}"
        ) from error
    known = {MANIFEST, *bundle.manifest.files}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not path.is_dir() and name not in known:
            raise ValueError(
                "folder must hold nothing but a bundle to be replaced. Move this file elsewhere: "
                f"{path}"
            )


def _write_onnx(
    translator: Any,
    folder: Path,
    description: Description,
    details: Sequence[str],
    sentences: Sequence[str],
) -> dict[str, Any]:
    """Write the files in float32; return what the parity report says of the conversion."""
    conversion = onnx_model.convert_search(translator.model, details)
    _save_onnx(translator, folder, description, conversion.model)
    return {
        "graph": GraphReport.of(conversion),
        "max_logit_difference": max_logit_difference(translator, conversion.model, sentences),
    }


def _with_split(
    translator: Any, folder: Path, description: Description, sentences: Sequence[str]
) -> Description:
    """Write encoder and decoder step, prove them, and return the description with them in it."""
    import onnx

    added = dict(description.signatures)
    for name, part in split.convert_split(translator.model).items():
        onnx.helper.set_model_props(part.model, {METADATA_KEY: description.model_dump_json()})
        onnx.save(part.model, folder / name)
        added[name] = signature(part.inputs, part.outputs)
    prove_split(translator, folder, sentences)
    return description.model_copy(update={"signatures": added})


def _write_twin(
    translator: Any, folder: Path, description: Description, precision: Precision
) -> None:
    import onnx

    model, _ = TWINS[precision](onnx.load(folder / "model.ids.onnx"))
    described = description.model_copy(update={"precision": precision})
    _save_onnx(translator, folder, described, model)


def _save_onnx(translator: Any, folder: Path, description: Description, ids_model: Any) -> None:
    """Write the file with ids and the one with texts."""
    import onnx

    onnx.helper.set_model_props(ids_model, {METADATA_KEY: description.model_dump_json()})
    text_model = add_text_nodes(
        ids_model,
        translator.source.serialized,
        translator.target.serialized,
        pad_id=description.special_ids.pad,
        eos_id=description.special_ids.eos,
        skipped_ids=translator.target.skipped_ids,
    )
    for name, model in zip(ONNX_FILES, (text_model, ids_model), strict=True):
        onnx.save(model, folder / file_name(name, description.precision))


def _saved_model_runtime(folder: Path, description: Description) -> parity.Runtime:
    def run(requests: list[parity.Request]) -> list[list[list[Hypothesis]]]:
        loaded = saved_model.load(folder)
        special = description.special_ids
        return [
            hypotheses(saved_model.run(loaded, r.texts, inputs_of(r.options, NO_PREFIX)), special)
            for r in requests
        ]

    return run


def _onnx_runtime(translator: Any, path: Path, description: Description) -> parity.Runtime:
    special = description.special_ids
    texts = "texts" in description.signatures[path.name].inputs

    def feed(request: parity.Request) -> dict[str, Any]:
        options = inputs_of(request.options, NO_PREFIX)
        if texts:
            return {"texts": request.texts, **options}
        rows = [[*row, special.eos] for row in translator.source.encode(request.texts)]
        return {"source_ids": pad_rows(rows, special.pad).astype("int64"), **options}

    def run(requests: list[parity.Request]) -> list[list[list[Hypothesis]]]:
        outputs = run_apart(path, [feed(request) for request in requests])
        found = [parity.read_outputs(output, special) for output in outputs]
        return found if texts else [_with_texts(translator, rows) for rows in found]

    return run


def _with_texts(translator: Any, rows: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    """Decode the tokens of hypotheses that came without texts."""
    texts = iter(translator.target.decode([h.tokens for row in rows for h in row]))
    return [[replace(h, text=next(texts)) for h in row] for row in rows]


def _finish(folder: Path, description: Description, report: ParityReport) -> None:
    report.write(folder)
    (folder / "README.md").write_text(model_card(description, report), encoding="utf-8")
    write_manifest(folder, description)


def _describe(
    translator: Any, signatures: dict[str, Signature], card: ModelCard | None
) -> Description:
    config = translator.config
    return Description(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        packages=_packages(),
        special_ids=SpecialIds.of(config),
        source_vocab_size=config.source_vocab_size,
        target_vocab_size=config.target_vocab_size,
        max_source_ids=config.longest,
        tokenizers={"source": "source.model", "target": "target.model"},
        signatures=signatures,
        card=_card(translator, card),
    )


def _card(translator: Any, card: ModelCard | None) -> ModelCard:
    """Fill in what the training run says, where the caller says nothing."""
    card = card or ModelCard()
    recipe = translator.recipe
    if recipe is None:
        return card
    known: dict[str, Any] = {"name": recipe.name, "data": recipe.data.kind}
    known["recipe"] = _without_folders(recipe.model_dump(mode="json"))
    return card.model_copy(update={k: v for k, v in known.items() if not getattr(card, k)})


def _without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """Leave out where files stood: a model that is given away must not tell of the machine."""
    data = {name: value for name, value in recipe["data"].items() if name != "folder"}
    for name in DATA_FILES:
        if data[name] is not None:
            data[name] = PureWindowsPath(data[name]).name  # knows both kinds of slash
    model = dict(recipe["model"])
    if model.get("start_from") is not None:
        model["start_from"] = PureWindowsPath(model["start_from"]).name
    return {**recipe, "data": data, "model": model}


def _packages() -> dict[str, str]:
    from keras_transformer import __version__

    versions = {"python": platform.python_version(), "keras-transformer": __version__}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
