"""The exported folder as a contract: what is in it, what each file must be, and how to call it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import from_json

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
# Key of the description in the metadata of an ONNX file, so that the file works alone.
METADATA_KEY = "keras_transformer"
MOST_MANIFEST_BYTES = 1 << 20


class BundleError(ValueError):
    """A folder or file that is not a whole bundle of this version; the message names the file."""


def _safe_name(name: str) -> str:
    """Only names that stay inside the folder on every system."""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(c in "\\:" or c < " " for c in name):
        raise ValueError("must be a relative path inside the bundle, with '/' between its parts")
    return name


FileName = Annotated[str, AfterValidator(_safe_name)]


Precision = Literal["float32", "int8", "float16"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileEntry(_Record):
    """Size in bytes and SHA-256 of a file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class TensorInfo(_Record):
    """An input or output: a letter in `shape` is a size that may change from call to call.

    An input with a `default` may be left out.
    """

    dtype: Literal["string", "int64", "int32", "float32", "bool"]
    shape: list[str | int]
    default: bool | float | list[list[int]] | None = None


class Signature(_Record):
    """Named inputs and outputs of one model file, and the precision of its weights."""

    precision: Precision = "float32"
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]


class SpecialIds(_Record):
    """Ids with a meaning of their own."""

    pad: int = Field(ge=0)
    unk: int = Field(ge=0)
    bos: int = Field(ge=0)
    eos: int = Field(ge=0)
    start: int = Field(ge=0)

    @classmethod
    def of(cls, config: Any) -> Self:
        """Those of a model's `config`."""
        return cls(
            pad=config.pad_id,
            unk=config.unk_id,
            bos=config.bos_id,
            eos=config.eos_id,
            start=config.start_id,
        )


class ModelCard(_Record):
    """What a user of the model should know of its making; empty where nobody said."""

    name: str = ""
    data: str = ""
    licence: str = ""
    metric: str = ""
    command: str = ""
    recipe: dict[str, JsonValue] = Field(default_factory=dict)


class Description(_Record):
    """What a runtime needs to know of a model, and its card. Also stands inside the ONNX files."""

    format_version: Literal[2] = FORMAT_VERSION
    search: Literal["greedy and beam"] = "greedy and beam"
    # Of the ONNX file that the description stands in.
    precision: Precision = "float32"
    created: str
    packages: dict[str, str]
    special_ids: SpecialIds
    source_vocab_size: int = Field(ge=1)
    target_vocab_size: int = Field(ge=1)
    # Longest source of a model with learned positions, in ids, the end id included.
    max_source_ids: int | None = Field(default=None, ge=1)
    tokenizers: dict[Literal["source", "target"], FileName]
    signatures: dict[FileName, Signature]
    card: ModelCard = ModelCard()

    @property
    def eos_id(self) -> int:
        """The id that ends a target."""
        return self.special_ids.eos

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Ids that the search never gives out: the pad and the start, unless it also ends."""
        special = self.special_ids
        return tuple(sorted({special.pad, special.start} - {special.eos}))

    @classmethod
    def parse(cls, data: bytes | str, name: str) -> Self:
        """Read JSON from a source that errors call `name`.

        Raises:
            BundleError: it is no JSON, of another format version, or not of this form.
        """
        values = _read_json(data, name)
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{name} must have format_version {FORMAT_VERSION}. Install the version of "
                f"keras-transformer that wrote it, or export again. Received: {version!r}"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            what = fault["msg"].removeprefix("Value error, ")
            raise BundleError(f"{name} must describe a bundle: {where}: {what}.") from error


class Manifest(Description):
    """`manifest.json`: the description, every other file, and a digest of all this.

    The digest finds damage; whoever changes a manifest on purpose can make a new one.
    """

    files: dict[FileName, FileEntry]
    digest: str = Field(pattern="^[0-9a-f]{64}$")

    @classmethod
    def parse(cls, data: bytes | str, name: str) -> Self:
        """Read JSON from a source that errors call `name`.

        Raises:
            BundleError: as for a description, or the contents do not have the digest.
        """
        manifest = super().parse(data, name)
        received = _digest(_read_json(data, name))
        if received != manifest.digest:
            raise BundleError(
                f"{name} must be the file that was exported: its contents have changed. Copy or "
                f"export it again. Received: digest {received[:12]}, expected "
                f"{manifest.digest[:12]}"
            )
        return manifest


class Bundle:
    """An exported folder whose manifest has been read.

    Example:
        >>> Bundle.open("exported").validate().manifest.search      # doctest: +SKIP
        'greedy and beam'
    """

    def __init__(self, folder: str | Path, manifest: Manifest):
        self.folder = Path(folder)
        self.manifest = manifest

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read the manifest of a folder; the files are checked by `validate`.

        Raises:
            BundleError: there is no folder, it is no bundle, its manifest has changed, or it is of
                a version this one cannot read.
        """
        path = Path(folder) / MANIFEST
        if not path.is_file():
            raise BundleError(
                f"{folder} must be a folder that keras-transformer export wrote. "
                f"Check the name. Received: no {MANIFEST} in it"
            )
        try:
            with path.open("rb") as file:
                data = file.read(MOST_MANIFEST_BYTES + 1)
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}).") from error
        return cls(folder, Manifest.parse(data, str(path)))

    def validate(self) -> Bundle:
        """Check that the folder holds exactly the files of the manifest, byte for byte.

        Files whose names begin with a dot are left to the operating system.

        Returns:
            The bundle itself.

        Raises:
            BundleError: a file is missing, changed, not listed, or a link.
        """
        for name in self.manifest.files:
            self.read(name)
        for name in sorted(set(_file_names(self.folder)) - set(self.manifest.files) - {MANIFEST}):
            raise BundleError(
                f"{self.folder / name} must be listed in {MANIFEST}. Move it elsewhere, or export "
                "again."
            )
        return self

    def read(self, name: str) -> bytes:
        """Return the contents of a listed file after checking them.

        Raises:
            BundleError: it is not listed, missing, unreadable, changed, or a link.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.folder / name} must be listed in {MANIFEST}.")
        path = self._inside(name)
        try:
            if path.exists() and not path.is_file():
                raise BundleError(f"{path} must be an ordinary file.")
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"{path} must be a readable file of this bundle. Copy or export it again. "
                f"Received: {error.strerror}"
            ) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != entry.sha256:
            raise BundleError(
                f"{path} must be the file that was exported: its contents have changed. "
                f"Copy or export it again. Received: {len(data)} bytes of {entry.size}, "
                f"SHA-256 {digest}"
            )
        return data

    def _inside(self, name: str) -> Path:
        path = self.folder
        for part in name.split("/"):
            path = path / part
            if path.is_symlink():
                raise BundleError(f"{path} must be a file of its own, not a link.")
        return path


def write_manifest(folder: Path, description: Description) -> Manifest:
    """Hash the files of a folder and write `manifest.json` beside them."""
    files: dict[str, FileEntry] = {}
    for name in sorted(_file_names(folder)):
        data = (folder / name).read_bytes()
        files[name] = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = Manifest(**description.model_dump(), files=files, digest="0" * 64)
    digest = _digest(_read_json(manifest.model_dump_json(), MANIFEST))
    manifest = manifest.model_copy(update={"digest": digest})
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 of all values but the digest, as JSON with sorted keys and without spaces."""
    others = {name: value for name, value in values.items() if name != "digest"}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _file_names(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if (path.is_symlink() or not path.is_dir()) and not path.name.startswith("."):
            yield path.relative_to(folder).as_posix()


def _read_json(data: bytes | str, name: str) -> dict[str, Any]:
    if len(data) > MOST_MANIFEST_BYTES:
        raise BundleError(f"{name} must be smaller than {MOST_MANIFEST_BYTES} bytes.")
    try:
        values = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise BundleError(f"{name} must be a JSON document ({error}).") from error
    if not isinstance(values, dict):
        raise BundleError(f"{name} must be a JSON object. Received: {type(values).__name__}")
    return cast(dict[str, Any], values)
