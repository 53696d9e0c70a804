"""What all tests share: a quiet TensorFlow, one seed, and one trained run."""

import os

from cheap_xla import CHEAP

from keras_transformer import backend

if os.environ.get("KERAS_BACKEND") == "jax":
    os.environ.setdefault("XLA_FLAGS", CHEAP)
# Before any test module: it loads onnxruntime-extensions, which must come before TensorFlow.
backend.start()

import contextlib  # noqa: E402
import io  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402
from importlib import metadata  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from rich.console import Console  # noqa: E402


def pytest_collection_modifyitems(config, items):
    """Files with slow tests go first, that no process is left with one of them in the end.

    What `make prove` runs at full size is left out where it is not asked for with `-m prove`. With
    KERAS_BACKEND=jax, what is about TensorFlow itself is skipped.
    """
    if "prove" not in config.option.markexpr:
        full_size = [item for item in items if item.get_closest_marker("prove")]
        config.hook.pytest_deselected(items=full_size)
        items[:] = [item for item in items if item not in full_size]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if keras.backend.backend() == "tensorflow":
        return
    for item in items:
        if item.get_closest_marker("tensorflow"):
            item.add_marker(pytest.mark.skip(reason="it needs the TensorFlow backend"))


# Files that share one exported bundle, which takes a minute to make: one process runs them all.
OF_THE_BUNDLE = ("exporter", "translators", "runtime", "bare_files", "precision", "split")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `--dist loadfile`, share out whole files, and those of the bundle together."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            names = (f"tests/export/test_{name}.py" for name in OF_THE_BUNDLE)
            return "the bundle" if file.endswith(tuple(names)) else file

    return ByFile(config, log)


def pytest_terminal_summary(terminalreporter):
    """Say which independent implementations the tests could compare with."""
    found = []
    for name in ("torch", "transformers"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    live = ", ".join(found) or "nothing (REFERENCES=1 make test installs PyTorch and transformers)"
    terminalreporter.write_line(f"Keras on {keras.backend.backend()}. Compared live with: {live}.")


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same random state and leaves no dtype policy behind.

    Keras draws the seeds of initializers and of dropout from Python's generator. Its own
    `set_random_seed` would also let TensorFlow forget what it has prepared to run: every compiled
    search of a fixture would be optimized once more in each test.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def files_limited():
    """Until its end, no file may grow above so many bytes: what a full disk is to a program."""
    if sys.platform == "win32":
        pytest.skip("needs RLIMIT_FSIZE")
    import resource

    @contextlib.contextmanager
    def limited(size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def tiny_recipe():
    """Digits to the same digits in reverse, by a model that trains in a second."""
    from keras_transformer.recipe import RunConfig

    sizes = {"num_layers": 1, "d_model": 32, "d_ff": 64, "num_heads": 2, "dropout": 0.1}
    return RunConfig(
        name="tiny",
        data={"kind": "reverse", "num_examples": 200, "max_digits": 4, "validation_fraction": 0.2},
        tokenizer={"model_type": "word", "vocab_size": 32},
        model={"preset": "tiny", "overrides": sizes},
        training={
            "batch_tokens": 64,
            "num_shapes": 2,
            "max_steps": 12,
            "evaluate_every": 4,
            "schedule": "constant",
            "peak_learning_rate": 0.01,
            "seed": 1,
        },
    )


@pytest.fixture(scope="session")
def tiny_training(tiny_recipe, tmp_path_factory):
    """The result of training `tiny_recipe`, and what was printed meanwhile; read only."""
    from keras_transformer.training.trainer import train

    screen = io.StringIO()
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    result = train(tiny_recipe, folder, Console(file=screen, width=100))
    return result, screen.getvalue()


@pytest.fixture(scope="session")
def tiny_run(tiny_training):
    """A `RunFolder` that was trained for a few steps; read only."""
    return tiny_training[0].run
