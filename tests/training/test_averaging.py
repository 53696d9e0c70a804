import numpy as np
import pytest
from tiny_models import tiny_model

import keras_transformer as kt


def test_the_average_is_the_mean_by_hand_and_fits_the_model(tmp_path):
    models = [tiny_model(seed) for seed in range(3)]
    paths = [tmp_path / f"{i}.keras" for i in range(3)]
    for model, path in zip(models, paths, strict=True):
        model.save(path)
    average = kt.average_weights(paths)
    for found, *arrays in zip(average, *(model.get_weights() for model in models), strict=True):
        expected = (arrays[0].astype("float64") + arrays[1] + arrays[2]) / 3
        assert found.dtype == arrays[0].dtype
        np.testing.assert_array_equal(found, expected.astype("float32"))
    models[0].set_weights(average)


def test_what_has_no_average_is_refused_by_name(tmp_path):
    tiny_model().save(tmp_path / "a.keras")
    tiny_model(d_ff=10).save(tmp_path / "b.keras")
    (tmp_path / "c.keras").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(ValueError, match=r"one architecture.*a.keras and .*b.keras"):
        kt.average_weights([tmp_path / "a.keras", tmp_path / "b.keras"])
    with pytest.raises(ValueError, match=r"c.keras must be a whole .keras file"):
        kt.average_weights([tmp_path / "c.keras"])
    for none in ([], "a.keras"):
        with pytest.raises(ValueError, match=r"paths must be a list of .keras files"):
            kt.average_weights(none)
