"""A Marian checkpoint as it was kept, and ways to write its weights."""

import shutil

import make_marian_goldens as goldens
import pytest
from marian_changes import REASON

from keras_transformer.bridges import from_marian


@pytest.fixture(scope="module")
def golden():
    return goldens.load()


@pytest.fixture(scope="module")
def kept_folder(golden, tmp_path_factory):
    """The checkpoint as it was kept; read only."""
    return goldens.write_folder(golden, tmp_path_factory.mktemp("marian") / "checkpoint")


@pytest.fixture(scope="module")
def translator(kept_folder):
    return from_marian(kept_folder)


@pytest.fixture
def folder(kept_folder, tmp_path):
    """A copy of the checkpoint to be damaged."""
    return shutil.copytree(kept_folder, tmp_path / "checkpoint")


@pytest.fixture
def save_torch(folder):
    """Save what it is given as the folder's pytorch_model.bin, its only weights."""
    torch = pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    (folder / "model.safetensors").unlink()
    return lambda content: torch.save(content, folder / "pytorch_model.bin")


@pytest.fixture
def tensors(kept_folder):
    """The checkpoint's weights as torch would have them."""
    torch = pytest.importorskip("torch", reason=f"PyTorch is not installed: it {REASON}")
    from safetensors.numpy import load_file

    arrays = load_file(kept_folder / "model.safetensors")
    return {name: torch.tensor(array) for name, array in arrays.items()}
