"""The wheel holds the two packages and nothing else."""

import zipfile
from pathlib import Path

import hatchling.build
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"keras_transformer": ROOT, "keras_transformer_export": ROOT / "export"}


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    """The file names in a wheel built from this tree, without those of its metadata folder."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = hatchling.build.build_wheel(str(folder))
    names = zipfile.ZipFile(folder / wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


def test_wheel_holds_exactly_the_two_packages(wheel_files):
    assert {name.partition("/")[0] for name in wheel_files} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_wheel_holds_every_module_and_the_type_marker(wheel_files, package):
    source = PACKAGES[package]
    modules = {path.relative_to(source).as_posix() for path in source.glob(f"{package}/**/*.py")}
    assert f"{package}/__init__.py" in modules
    assert modules | {f"{package}/py.typed"} <= wheel_files


def test_wheel_holds_every_recipe(wheel_files):
    recipes = {
        f"keras_transformer/recipes/{name}.yaml"
        for name in ("g2p", "g2p-large", "multi30k", "reverse")
    }
    assert recipes <= wheel_files
    in_tree = {path.name for path in (ROOT / "keras_transformer/recipes").glob("*.yaml")}
    assert in_tree == {Path(name).name for name in wheel_files if name.endswith(".yaml")}


def test_wheel_holds_the_page_of_the_explorer(wheel_files):
    assert "keras_transformer/visualization/explorer.html" in wheel_files


def test_no_module_takes_the_name_of_a_library_or_of_a_folder_of_ours(wheel_files):
    taken = {"export", "tests", "notebooks", "benchmarks"}
    assert not {name for name in wheel_files if name.partition("/")[0] in taken}
    confusing = {"onnx.py", "tensorflow.py", "keras.py", "jax.py"}
    assert not {name for name in wheel_files if Path(name).name in confusing}


def test_export_is_a_source_root_and_not_a_package():
    assert not (ROOT / "export/__init__.py").exists()
