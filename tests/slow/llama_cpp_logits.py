"""Writes what llama.cpp predicts after each token of a text: python llama_cpp_logits.py MODEL.gguf TEXT OUT

OUT.ids holds the token ids (little-endian u32), OUT.logits [tokens, vocabulary] float32.
"""

import sys

import llama_cpp
import numpy as np

gguf, text, out = sys.argv[1:]
model = llama_cpp.Llama(gguf, n_ctx=1024, logits_all=True, verbose=False)
ids = model.tokenize(open(text, "rb").read(), add_bos=False, special=False)[:512]
model.eval(ids)
np.array(ids, dtype="<u4").tofile(out + ".ids")
model.scores[: len(ids)].astype("<f4").tofile(out + ".logits")
