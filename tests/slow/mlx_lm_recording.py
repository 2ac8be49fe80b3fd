"""Quantizes a checkpoint with mlx-lm and records what mlx-lm computes from the result, in float32.

usage: mlx_lm_recording.py CHECKPOINT OUT MODE BITS GROUP_SIZE
OUT/model is the quantized checkpoint, OUT/golden the recording, as `phi3v verify` reads it.
"""

import json
import os
import sys

import mlx.core as mx
from mlx_lm import load
from mlx_lm.convert import convert

checkpoint, out = sys.argv[1:3]
mode, bits, group_size = sys.argv[3], *map(int, sys.argv[4:6])
convert(checkpoint, mlx_path=f"{out}/model", quantize=True, q_bits=bits, q_group_size=group_size, q_mode=mode)
model, _ = load(f"{out}/model")
model.set_dtype(mx.float32)

ids = [1] + [(7 * i * i + 13 * i) % 700 + 20 for i in range(39)]
greedy = []
for _ in range(16):
    logits = model(mx.array([ids + greedy]))[0, -1]
    if not greedy:
        last = logits
    greedy.append(int(mx.argmax(logits)))
os.makedirs(f"{out}/golden")
mx.save_safetensors(f"{out}/golden/golden.safetensors", {
    "input_ids": mx.array(ids, dtype=mx.int32), "last_logits": last, "greedy_ids": mx.array(greedy, dtype=mx.int32),
})
with open(f"{out}/golden/golden.json", "w", encoding="utf8") as file:
    json.dump({"case": f"mlx-lm {mode}, {bits} bits in groups of {group_size}"}, file)
