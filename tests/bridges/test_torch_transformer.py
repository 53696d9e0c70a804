"""The whole encoder and decoder beside `torch.nn.Transformer`, with weights from its state dict."""

import keras
import numpy as np
import pytest
import torch_goldens
from tiny_models import disturb

from keras_transformer.bridges import from_torch
from keras_transformer.config import TransformerConfig
from keras_transformer.layers import Similarity
from keras_transformer.model import Transformer

TOLERANCE = 1e-4


def needs_torch():
    return pytest.importorskip(
        "torch", reason="PyTorch is not installed: it comes with the extra [references]"
    )


def model_like(options, **fields):
    """A `Transformer` of the architecture that `options` of `torch.nn.Transformer` describe."""
    same = ("d_model", "num_encoder_layers", "num_decoder_layers", "norm_first", "activation")
    config = TransformerConfig(
        **{
            "source_vocab_size": 7,
            "target_vocab_size": 9,
            "num_heads": options["nhead"],
            "d_ff": options["dim_feedforward"],
            "final_norm": True,
            **{name: options[name] for name in same if name in options},
            **fields,
        }
    )
    model = Transformer(config)
    disturb(model)
    return model


def our_outputs(model, source, source_mask, target, target_mask):
    memory = model.encoder(source, source_mask[:, None])
    output = model.decoder(target, memory, source_mask[:, None])
    return [keras.ops.convert_to_numpy(x) for x in (memory, output)]


def assert_equal_where_real(ours, theirs, inputs, about):
    """Compare the real positions; at the others torch leaves anything, even zeros."""
    _, source_mask, _, target_mask = inputs
    differences = [
        np.abs(our - their)[mask]
        for our, their, mask in zip(ours, theirs, (source_mask, target_mask), strict=True)
    ]
    largest = [float(difference.max()) for difference in differences]
    print(f"{about}: largest absolute error {largest[0]:.1e} of memory, {largest[1]:.1e} of output")
    assert max(largest) < TOLERANCE
    assert all(
        np.abs(their[mask]).mean() > 0.3
        for their, mask in zip(theirs, (source_mask, target_mask), strict=True)
    )


# Against files: these run where torch is not installed.

each_golden = pytest.mark.parametrize("name", torch_goldens.TRANSFORMERS)
OPTIONS = {
    name: {**torch_goldens.SIZES, **options} for name, options in torch_goldens.TRANSFORMERS.items()
}
POST = "torch_post_norm"


@each_golden
def test_golden_outputs_of_torch_are_ours_with_its_weights(name):
    arrays = torch_goldens.load(name)
    model = model_like(OPTIONS[name])
    from_torch(torch_goldens.state_dict(arrays), model)
    inputs = [arrays[n] for n in ("source", "source_mask", "target", "target_mask")]
    assert not inputs[1].all()
    ours = our_outputs(model, *inputs)
    assert_equal_where_real(ours, (arrays["memory"], arrays["output"]), inputs, name)


def test_the_goldens_are_small_enough_to_keep_in_the_repository():
    sizes = [(torch_goldens.FOLDER / f"{n}.npz").stat().st_size for n in torch_goldens.FILES]
    assert sum(sizes) < 300_000


@pytest.fixture
def state():
    return torch_goldens.state_dict(torch_goldens.load(POST))


@pytest.fixture
def model():
    return model_like(OPTIONS[POST])


def test_every_weight_of_the_stacks_is_copied_and_no_other_is_touched(state, model):
    before = {weight.path: weight.numpy() for weight in model.weights}
    from_torch(state, model)
    stacks = {w.path for w in (*model.encoder.weights, *model.decoder.weights)}
    changed = {w.path for w in model.weights if not np.array_equal(w.numpy(), before[w.path])}
    assert changed == stacks
    assert sum(v.size for v in state.values()) == sum(
        w.numpy().size for w in model.weights if w.path in stacks
    )


def test_a_prefix_chooses_the_transformer_inside_a_larger_module(state, model):
    larger = {f"net.transformer.{name}": value for name, value in state.items()}
    larger["net.embedding.weight"] = np.zeros((7, 16))
    from_torch(larger, model, prefix="net.transformer")
    again = model_like(OPTIONS[POST])
    from_torch(state, again)
    for ours, theirs in zip(model.decoder.weights, again.decoder.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    from_torch(larger, model, prefix="net.transformer.")


def test_a_state_dict_without_any_bias_gives_biases_of_zero(state, model):
    without = {name: value for name, value in state.items() if not name.endswith("bias")}
    from_torch(without, model)
    layer = model.decoder.layers[0]
    zeros = (
        layer.cross_attention.memory_projection.bias,
        layer.feed_forward.inner.bias,
        layer.cross_attention_norm.beta,
        model.encoder.norm.beta,
    )
    assert all((weight.numpy() == 0).all() for weight in zeros)
    np.testing.assert_array_equal(
        layer.feed_forward.inner.kernel.numpy(), state["decoder.layers.0.linear1.weight"].T
    )


def test_a_state_dict_without_final_norms_fits_a_model_without_them(state):
    model = model_like(OPTIONS[POST], final_norm=False)
    kept = {n: v for n, v in state.items() if not n.startswith(("encoder.norm", "decoder.norm"))}
    from_torch(kept, model)
    np.testing.assert_array_equal(
        model.encoder.layers[0].feed_forward_norm.gamma.numpy(),
        state["encoder.layers.0.norm2.weight"],
    )


# What does not fit is refused, and then nothing has changed.


def assert_refused(state, model, *words, **options):
    before = model.get_weights()
    with pytest.raises(ValueError) as caught:
        from_torch(state, model, **options)
    message = str(caught.value)
    assert all(word in message for word in (*words, "Received: ")), message
    assert len(message) < 900
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_missing_name_is_refused_with_the_one_it_may_be(state, model):
    name = "decoder.layers.0.multihead_attn.in_proj_weight"
    state["decoder.layers.0.multihead_attn.in_proj_wieght"] = state.pop(name)
    assert_refused(
        state, model, f"missing '{name}'", f"'{name}' may be '{name[:-6]}wieght'", "unknown"
    )


def test_extra_names_are_refused_and_only_a_few_shown(state, model):
    state |= {f"head.{index}.weight": np.zeros(3) for index in range(500)}
    assert_refused(state, model, "missing none", "'head.0.weight'", "and 497 more")


def test_some_but_not_all_biases_are_refused(state, model):
    del state["encoder.layers.1.linear1.bias"]
    assert_refused(state, model, "'encoder.layers.1.linear1.bias'", "biases all or none")


def test_a_wrong_shape_is_refused_with_both_shapes(state, model):
    name = "encoder.layers.1.linear1.weight"
    state[name] = state[name].T
    assert_refused(state, model, name, "(24, 16)", "(16, 24)", "1 of ", "d_ff=24")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"d_model": 8}, "d_model=8"),
        ({"d_ff": 12}, "d_ff=12"),
        ({"num_encoder_layers": 3}, "TransformerConfig(num_encoder_layers=2)"),
        ({"num_decoder_layers": 2}, "TransformerConfig(num_decoder_layers=1)"),
        ({"final_norm": False}, "TransformerConfig(final_norm=True)"),
        ({"key_dim": 6}, "key_dim=6"),
        ({"value_dim": 3}, "value_dim=3"),
        ({"similarity": "dot"}, "similarity='dot'"),
        ({"positions": "rotary"}, "positions='rotary'"),
    ],
)
def test_a_model_of_another_architecture_is_refused(state, fields, word):
    assert_refused(state, model_like(OPTIONS[POST], **fields), word)


def test_a_similarity_of_ones_own_is_refused(state):
    @keras.saving.register_keras_serializable(package="tests_torch")
    class Sum(Similarity):
        def call(self, query, prepared):
            return keras.ops.matmul(query, prepared) + 1

    assert_refused(state, model_like(OPTIONS[POST], similarity=Sum()), "similarity must be")


def test_a_forgotten_or_wrong_prefix_is_refused_with_the_right_one(state, model):
    larger = {f"net.transformer.{name}": value for name, value in state.items()}
    assert_refused(larger, model, "Use prefix='net.transformer'.")
    assert_refused(larger, model, "Use prefix='net.transformer'.", prefix="net")


def test_what_is_no_state_dict_or_no_transformer_is_refused(state, model):
    assert_refused([], model, "state_dict must hold", "list")
    assert_refused({}, model, "torch.nn.Transformer", "0 names, none")
    assert_refused({"weight": np.zeros(2)}, model, "1 names, 'weight'")
    state["encoder.norm.weight"] = "text"
    assert_refused(state, model, "state_dict['encoder.norm.weight']", "str")
    with pytest.raises(ValueError, match="model must be a keras_transformer.Transformer"):
        from_torch({}, model.encoder)


def test_names_that_are_no_strings_are_refused(state, model):
    state[7] = np.zeros(2)
    assert_refused(state, model, "state_dict must hold names", "the name 7")


@pytest.mark.parametrize("prefix", [None, 3, b"net", ["net"]])
def test_a_prefix_that_is_no_string_is_refused(prefix, state, model):
    assert_refused(state, model, "prefix must be a string", f"prefix={prefix!r}", prefix=prefix)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64", "object"])
def test_arrays_of_other_things_than_floats_are_refused(dtype, state, model):
    name = "encoder.norm.weight"
    state[name] = np.asarray(state[name]).astype(dtype)
    assert_refused(state, model, f"state_dict['{name}'] must hold floats", f"of {dtype}")


# Against torch itself, where it is installed.


@pytest.mark.parametrize("name", torch_goldens.FILES)
def test_the_golden_files_are_what_torch_computes_now(name):
    needs_torch()
    found, expected = torch_goldens.load(name), torch_goldens.make(name)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=1e-5)


LENGTHS = {
    "one position": ((1,), (1,)),
    "no padding": ((6, 6, 6), (5, 5, 5)),
    "much padding": ((1, 9, 3, 17, 2), (13, 1, 7, 2, 4)),
    "long": ((70, 33), (50, 51)),
}


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post_norm", "pre_norm"])
def test_encoder_and_decoder_equal_torch_with_its_weights(norm_first, activation):
    torch = needs_torch()
    options = {
        "d_model": 64,
        "nhead": 8,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "dim_feedforward": 96,
        "norm_first": norm_first,
        "activation": activation,
    }
    theirs = torch_goldens.torch_transformer(seed=3, **options)
    ours = model_like(options)
    from_torch(theirs.state_dict(), ours)
    for seed, (about, lengths) in enumerate(LENGTHS.items()):
        inputs = torch_goldens.vectors(*lengths, options["d_model"], seed)
        outputs = our_outputs(ours, *inputs)
        assert_equal_where_real(
            outputs, torch_goldens.torch_outputs(theirs, *inputs), inputs, about
        )
        with torch.no_grad():  # the encoder then takes another road in torch
            assert_equal_where_real(
                outputs, torch_goldens.torch_outputs(theirs, *inputs), inputs, f"{about}, no grad"
            )


def test_a_torch_module_without_biases_equals_ours():
    needs_torch()
    options = {**OPTIONS[POST], "bias": False}
    theirs, ours = torch_goldens.torch_transformer(**options), model_like(OPTIONS[POST])
    from_torch(theirs.state_dict(), ours)
    inputs = torch_goldens.vectors((5, 2), (3, 4), options["d_model"])
    outputs = torch_goldens.torch_outputs(theirs, *inputs)
    assert_equal_where_real(our_outputs(ours, *inputs), outputs, inputs, "bias=False")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_tensors_of_other_precisions_are_taken(dtype, model):
    torch = needs_torch()
    module = torch_goldens.torch_transformer(**OPTIONS[POST]).to(getattr(torch, dtype))
    from_torch(module.state_dict(), model)
    theirs = module.encoder.norm.weight.detach().float().numpy()
    np.testing.assert_allclose(model.encoder.norm.gamma.numpy(), theirs, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "bool", "complex64"])
def test_tensors_of_other_things_than_floats_are_refused(dtype, state, model):
    torch = needs_torch()
    name = "encoder.norm.weight"
    state[name] = torch.tensor(np.asarray(state[name])).to(getattr(torch, dtype))
    assert_refused(state, model, f"state_dict['{name}'] must hold floats", f"of {dtype}")


@pytest.mark.parametrize("kind", ["meta", "sparse"])
def test_tensors_without_plain_values_are_refused(kind, state, model):
    torch = needs_torch()
    name = "encoder.norm.weight"
    tensor = torch.tensor(np.asarray(state[name]))
    state[name] = tensor.to("meta") if kind == "meta" else tensor.to_sparse()
    assert_refused(state, model, f"state_dict['{name}'] must be a dense tensor or array", "Tensor")


def test_parameters_that_want_gradients_are_taken(state, model):
    torch = needs_torch()
    taken = {n: torch.nn.Parameter(torch.tensor(np.asarray(v))) for n, v in state.items()}
    from_torch(taken, model)
    np.testing.assert_array_equal(model.encoder.norm.gamma.numpy(), state["encoder.norm.weight"])
