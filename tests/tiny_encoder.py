"""Writes a tiny random cross-encoder (BertForSequenceClassification) with a WordPiece tokenizer.

`python tests/tiny_encoder.py DIRECTORY [LABELS]`
"""

import json
import pathlib
import sys

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

CONFIG = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
    "pad_token_id": 0,
    "position_embedding_type": "absolute",
}
WORDS = "the moon and a small boat winter in north where is of sea ship snow cold warm sun".split()


def tokenizer():
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,!"
    vocabulary += [letter for letter in letters if letter not in vocabulary]
    vocabulary += ["##" + letter for letter in letters]
    ids = {word: i for i, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.add_special_tokens(vocabulary[:5])
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return made


def weights(vocab_size, num_labels):
    random = numpy.random.default_rng(0)
    width, ff = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    tensors = {}

    def put(name, *shape, scale=0.3):
        tensors[name] = (random.standard_normal(shape) * scale).astype(numpy.float32)

    def linear(name, rows, columns):
        put(name + ".weight", rows, columns, scale=columns**-0.5 * 1.5)
        put(name + ".bias", rows)

    def norm(name):
        put(name + ".weight", width)
        tensors[name + ".weight"] += 1
        put(name + ".bias", width)

    put("bert.embeddings.word_embeddings.weight", vocab_size, width, scale=1)
    put("bert.embeddings.position_embeddings.weight", CONFIG["max_position_embeddings"], width)
    put("bert.embeddings.token_type_embeddings.weight", 2, width)
    norm("bert.embeddings.LayerNorm")
    for i in range(CONFIG["num_hidden_layers"]):
        at = f"bert.encoder.layer.{i}."
        for part in ["query", "key", "value"]:
            linear(at + "attention.self." + part, width, width)
        linear(at + "attention.output.dense", width, width)
        norm(at + "attention.output.LayerNorm")
        linear(at + "intermediate.dense", ff, width)
        linear(at + "output.dense", width, ff)
        norm(at + "output.LayerNorm")
    linear("bert.pooler.dense", width, width)
    linear("classifier", num_labels, width)
    return tensors


def write(directory, num_labels=1):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(directory / "tokenizer.json"))
    vocab_size = made.get_vocab_size()
    labels = {str(i): f"LABEL_{i}" for i in range(num_labels)}
    config = CONFIG | {"vocab_size": vocab_size, "id2label": labels}
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    save_file(weights(vocab_size, num_labels), directory / "model.safetensors")


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
