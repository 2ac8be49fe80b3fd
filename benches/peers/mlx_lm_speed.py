#!/usr/bin/env python3
"""mlx_lm_speed.py MODEL PROMPT_TOKENS TOKENS: seconds of mlx-lm's forward passes, as JSON."""
import json
import sys
import time

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model
from pathlib import Path

model, _ = load_model(Path(sys.argv[1]))
cache = make_prompt_cache(model)


def forward(ids):
    start = time.time()
    mx.eval(model(mx.array([ids]), cache=cache)[:, -1:])
    return time.time() - start


prefill = forward([5] * int(sys.argv[2]))
decode = [forward([7]) for _ in range(int(sys.argv[3]))]
print(json.dumps({"prompt_tps": int(sys.argv[2]) / prefill, "generation_tps": len(decode) / sum(decode)}))
