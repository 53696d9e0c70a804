"""A tiny Marian checkpoint and what transformers makes of it, kept in one small file.

So ours is held to it where transformers is absent. With transformers and torch installed, this
writes the file anew:

    python tests/references/make_marian_goldens.py
"""

import json
import os
import random
import warnings
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("marian.npz")
FILES = ("config.json", "vocab.json", "source.spm", "target.spm", "model.safetensors")
SIZES = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "activation_function": "swish",
    "scale_embedding": True,
}
SPREAD, EOS_BIAS = 0.3, 2.5  # of the random weights
CODES = (">>fra<<", ">>rus<<", ">>cmn_Hans<<")
# What the two sides are trained on: other languages, a few words and signs in both.
SOURCE = (
    "the dog ate a big bagel and ran off, a cat sat on the mat! hello world, where is it? yes",
    "she sells sea shells; he is 42 years old: name & address of John Smith (no. 7) - well done",
)
TARGET = (
    "der Hund aß ein großes Brötchen und lief weg „ja“ «да» привет мир, где ты? собака съела",
    "こんにちは 語 東京 — 42 John Smith (7) straße ñandú hello ½ 😀 é",
)
MISSING = ("▁is", "lls", "at", "▁weg", "е", "ы")  # pieces that vocab.json lacks, as OPUS-MT's do
TEXTS = (
    "", " ", "hello world", "the dog ate a big bagel and ran off", "  a  cat ", "\ta\n b",
    ">>fra<< the dog ran off", ">>cmn_Hans<< hello", ">>fra<<", ">>rus<<   a cat", "a > b >> c <<",
    "Where is the 日本 ?", "日本", "日本語", "日", "日日", "東京 日本語 日", "a日本b", "я", "п р и",
    "привет мир", "「日本」", "aß", "große „yes“ «да»", "„", "„“", "«", "😀", "😀😀", "☃ 日 ☃日",
    "שלום", "مرحبا", "नमस्ते", "한국어", "Ελλάδα é", "e\u0301", "½ ﬁ ａｂ ①", "she sells sea shells",
    "The shop is in the sh", "this, that & those!", "John Smith (no. 7) - 42", "zzz qqq xyz",
    "a\u00a0b\u3000c\u200bd", "▁", "▁a▁", "aaaa gggg llll", "hello " * 30,
)  # fmt: skip
TARGET_TEXTS = (
    "", "der Hund", "привет мир, где ты?", "こんにちは 日本 語", "日本語 東京", "the dog is big",
    "„ja“ «да» — 42 ½", "☃ q 😀", ">>rus<< собака", "weg und weg", "Ελλάδα",
)  # fmt: skip


def load():
    """The files of the checkpoint as bytes, and the arrays that transformers computed, by name."""
    with np.load(FILE) as arrays:
        return dict(arrays)


def write_folder(arrays, folder):
    """Write the checkpoint; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(arrays[name].tobytes())
    return folder


def make():
    """The same as transformers computes it now."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = make_folder(Path(name))
        files = {name: np.frombuffer((folder / name).read_bytes(), "uint8") for name in FILES}
        return files | outputs(folder)


def make_folder(folder, seed=0, model_type="unigram", **fields):
    """Write a random checkpoint as transformers does; `fields` are of its MarianConfig."""
    model = marian_model(make_tokenizer_files(folder, seed, model_type), seed, **fields)
    model.save_pretrained(folder)
    return folder


def make_tokenizer_files(folder, seed=0, model_type="unigram", **options):
    """Train both .spm files and write vocab.json; returns the number of its pieces."""
    import sentencepiece as spm

    pieces = {}
    # each side keeps its own rules; the usual ones take 240 kB
    for name, texts, rules in (("source", SOURCE, "nmt_nfkc"), ("target", TARGET, "identity")):
        generator = random.Random(seed)
        words = " ".join(texts).split()
        lines = [" ".join(generator.choices(words, k=7)) for _ in range(400)]
        if name == "target":  # words without spaces make a piece inside of words: 日本
            lines += [
                "".join(generator.choices("東西南北大新語", k=2)) + "日本" for _ in range(400)
            ]
        with open(folder / f"{name}.spm", "wb") as file:
            spm.SentencePieceTrainer.train(
                sentence_iterator=iter(lines),
                model_writer=file,
                model_type=model_type,
                vocab_size=120,
                hard_vocab_limit=False,
                character_coverage=1.0,
                minloglevel=2,
                num_threads=1,
                **{"normalization_rule_name": rules, **options},
            )
        processor = spm.SentencePieceProcessor(str(folder / f"{name}.spm"))
        pieces |= {processor.id_to_piece(i): None for i in range(3, processor.vocab_size())}
    ordinary = [piece for piece in pieces if piece not in MISSING]
    random.Random(seed).shuffle(ordinary)
    entries = ["</s>", "<unk>", *ordinary, *CODES, "<pad>"]
    vocabulary = {piece: index for index, piece in enumerate(entries)}
    text = json.dumps(vocabulary, ensure_ascii=False)
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    return len(vocabulary)


def marian_model(vocab_size, seed=0, **fields):
    """A random `MarianMTModel` in which no weight is 0 or 1; its outputs differ in length."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import MarianConfig, MarianMTModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    config = MarianConfig(
        **{
            **SIZES,
            "vocab_size": vocab_size,
            "decoder_vocab_size": vocab_size,
            "pad_token_id": vocab_size - 1,
            "decoder_start_token_id": vocab_size - 1,
            "eos_token_id": 0,
            "forced_eos_token_id": None,
            **fields,
        }
    )
    model = MarianMTModel(config).eval()
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if "embed_positions" not in name:
                mean, deviation = (1.0, 0.3) if "norm.weight" in name else (0.0, SPREAD)
                value.copy_(torch.from_numpy(generator.normal(mean, deviation, value.shape)))
        # else the embedding of a token would find itself in the tied output, again and again
        last = model.model.decoder.layers[-1].final_layer_norm
        last.weight.copy_(torch.from_numpy(generator.normal(0.0, 1.0, last.weight.shape)))
        model.final_logits_bias[:, 0] += EOS_BIAS
    return model


def outputs(folder, texts=TEXTS, target_texts=TARGET_TEXTS):
    """What transformers makes of texts: ids, logits of all of them, and greedy translations."""
    import torch
    from transformers import MarianMTModel

    tokenizer = marian_tokenizer(folder)
    model = MarianMTModel.from_pretrained(folder).eval()
    rows = [tokenizer(text).input_ids for text in texts]
    target_rows = [tokenizer(text_target=text).input_ids for text in target_texts]
    pad_id = model.config.pad_token_id
    source_ids = torch.tensor(padded(rows, pad_id))
    mask = source_ids != pad_id
    generated = model.generate(
        source_ids,
        attention_mask=mask,
        num_beams=1,
        do_sample=False,
        max_new_tokens=12,
        bad_words_ids=[[pad_id]],
    )
    generator = np.random.default_rng(0)
    target_in = torch.from_numpy(generator.integers(0, pad_id, (len(texts), 7)))
    target_in[:, 0] = model.config.decoder_start_token_id
    some = slice(None, None, 5)  # the file is to be small
    with torch.no_grad():
        logits = model(
            input_ids=source_ids[some], attention_mask=mask[some], decoder_input_ids=target_in[some]
        )
    return {
        "source_ids": source_ids.numpy().astype("int32"),
        "target_ids": padded(target_rows, pad_id).astype("int32"),
        "logits_source_ids": source_ids[some].numpy().astype("int32"),
        "target_in": target_in[some].numpy().astype("int32"),
        "logits": logits.logits.numpy(),
        "greedy_ids": generated.numpy()[:, 1:].astype("int32"),
    }


def marian_tokenizer(folder):
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import MarianTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends sacremoses, which its call does not use
        return MarianTokenizer.from_pretrained(folder)


def padded(rows, pad_id):
    array = np.full((len(rows), max(map(len, rows))), pad_id)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(f"{FILE}: {FILE.stat().st_size / 1000:.0f} kB")
