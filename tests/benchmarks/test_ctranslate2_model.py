"""The conversion to CTranslate2, a third witness of what the model computes."""

import pytest
from ctranslate2_model import write_ctranslate2
from tiny_models import model_with, source_ids

from keras_transformer.decoding import reference

CONVERTED = (
    "post_norm", "norm_first", "norm_first_without_final_norm", "post_norm_with_final_norm",
    "learned_positions", "halves_layout", "shared_embeddings", "separate_embeddings",
    "output_bias_gelu", "silu_one_head", "uneven_stacks", "start_is_pad", "start_is_eos",
    "other_special_ids",
)  # fmt: skip
REFUSED = {
    "rotary": "positions must be sinusoidal or learned.*'rotary'",
    "key_and_value_sizes": "key_dim must be d_model / num_heads.*key_dim=5",
    "cosine": "positions must be",
    "additive": "similarity must be 'scaled_dot'.*'additive'",
    "own_similarity": "similarity must be 'scaled_dot'.*Negated",
}
LENGTHS, LONGEST = [8, 2, 5, 9, 3, 7], 12  # of the end symbol alone CTranslate2 makes nothing


def needs_ctranslate2():
    return pytest.importorskip(
        "ctranslate2", reason="CTranslate2 is not installed: it comes with the extra [references]"
    )


@pytest.mark.parametrize("option", CONVERTED)
def test_ctranslate2_gives_our_greedy_ids(option, tmp_path):
    ctranslate2 = needs_ctranslate2()
    model, forward = model_with(option)
    config = model.config
    sources = source_ids(config, LENGTHS)
    expected = reference.predict(forward, sources, config, [LONGEST] * len(LENGTHS))
    write_ctranslate2(model, tmp_path / "model")
    found = ctranslate2.Translator(str(tmp_path / "model"), compute_type="float32").translate_batch(
        [[str(i) for i in row[:length]] for row, length in zip(sources, LENGTHS, strict=True)],
        beam_size=1,
        max_decoding_length=LONGEST,
        min_decoding_length=0,
        return_end_token=True,
        suppress_sequences=[[str(i)] for i in config.banned_ids],
    )
    rows = [[int(token) for token in result.hypotheses[0]] for result in found]
    assert rows == [[i for i in row if i != config.pad_id] for row in expected.tolist()]


@pytest.mark.parametrize("option", REFUSED)
def test_what_ctranslate2_does_not_compute_is_refused(option, tmp_path):
    needs_ctranslate2()
    model, _ = model_with(option)
    with pytest.raises(ValueError, match=f"(?s){REFUSED[option]}"):
        write_ctranslate2(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_tied_table_is_stored_once_and_no_model_is_overwritten(tmp_path):
    needs_ctranslate2()
    model, _ = model_with("shared_embeddings")
    write_ctranslate2(model, tmp_path)
    separate, _ = model_with("separate_embeddings")
    write_ctranslate2(separate, tmp_path / "separate")
    saved = (tmp_path / "separate" / "model.bin").stat().st_size
    saved -= (tmp_path / "model.bin").stat().st_size
    assert saved > 2 * 11 * 8 * 4  # at least two tables of float32
    with pytest.raises(ValueError, match="folder must hold no model yet"):
        write_ctranslate2(model, tmp_path)
