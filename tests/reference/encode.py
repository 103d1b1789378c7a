"""Encodes the corpus with transformers' tokenizer of a GGUF file, one JSON object per line.

`ids`: by the original's pre-tokenizer. `plain`: the same with special tokens' text as plain text.
`decoded`: back to text, where that is another, for a vocabulary may lack bytes.
`converted`: by transformers' own conversion, where it differs (see vocabulary.py).
"""

import argparse
import json
import sys

import corpus
from vocabulary import converted_tokenizer, original_tokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("count", type=int, help="lines of the corpus")
    args = parser.parse_args()

    converted, _ = converted_tokenizer(args.model)
    original = original_tokenizer(args.model)
    plain = original_tokenizer(args.model)
    plain.encode_special_tokens = True
    for text in corpus.lines(args.count):
        ids = original.encode(text, add_special_tokens=False).ids
        line = {"text": text, "ids": ids}
        line["plain"] = plain.encode(text, add_special_tokens=False).ids
        decoded = original.decode(ids, skip_special_tokens=False)
        if decoded != text:
            line["decoded"] = decoded
        other = converted.encode(text, add_special_tokens=False).ids
        if other != ids:
            line["converted"] = other
        json.dump(line, sys.stdout)
        print()


if __name__ == "__main__":
    main()
