"""Converts a checkpoint with mlx-lm or mlx-vlm and compares with phi3v's conversion of it, bit for bit.

    python peer_conversion.py mlx_lm|mlx_vlm SOURCE OURS THEIRS BITS GROUP_SIZE MODE [RECIPE]

THEIRS is written; OURS is loaded by the tool, too, and computes. Prints what differs and ends with 1 if anything does.
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn

tool, source, ours, theirs, bits, group_size, mode, *recipe = sys.argv[1:]
failures = []


def config(folder):
    return json.loads(Path(folder, "config.json").read_text())


def allow_small_towers(measures):
    """mlx-vlm has the measures of CLIP's largest tower in its code; tiny checkpoints have others."""
    VisionModel = importlib.import_module("mlx_vlm.models.phi3_v.vision").VisionModel
    VisionModel.CLIP_VIT_LARGE_PATCH14_336_CONFIG = SimpleNamespace(model_type="phi3_v", **measures)
    original, dim = VisionModel.__init__, measures["hidden_size"]

    def init(self, config):
        original(self, config)
        self.image_dim_out = dim
        self.glb_GN, self.sub_GN = mx.zeros([1, 1, 4 * dim]), mx.zeros([1, 1, 1, 4 * dim])
        self.img_projection[0] = nn.Linear(4 * dim, config.hidden_size)

    VisionModel.__init__ = init


def tensors(folder):
    index = json.loads(Path(folder, "model.safetensors.index.json").read_text())
    found = {}
    for name in sorted(set(index["weight_map"].values())):
        arrays, metadata = mx.load(f"{folder}/{name}", return_metadata=True)
        if metadata.get("format") != "mlx":
            failures.append(f"{folder}/{name}: metadata {metadata}")
        found.update(arrays)
    if sorted(index["weight_map"]) != list(index["weight_map"]) or set(index["weight_map"]) != set(found):
        failures.append(f"{folder}: the index does not fit")
    return found, index["metadata"]["total_size"]


def differing(a, b):
    """How many elements differ, as integers: a NaN equals nothing, and zeros have signs."""
    kind = {4: mx.uint32, 2: mx.uint16, 1: mx.uint8}[a.dtype.size]
    return mx.sum(a.view(kind) != b.view(kind)).item()


def compare():
    (a, size_a), (b, size_b) = tensors(ours), tensors(theirs)
    if size_a != size_b:
        failures.append(f"total_size {size_a}, {size_b}")
    for name in sorted(set(a) | set(b)):
        if name not in a or name not in b:
            failures.append(f"{name} only in {'theirs' if name in b else 'ours'}")
        elif (a[name].dtype, a[name].shape) != (b[name].dtype, b[name].shape):
            failures.append(f"{name}: {a[name].dtype} {a[name].shape}, {b[name].dtype} {b[name].shape}")
        elif count := differing(a[name], b[name]):
            failures.append(f"{name}: {count} of {a[name].size} differ")
    for key in ["quantization", "quantization_config"]:
        qa, qb = config(ours)[key], config(theirs)[key]
        for name in (name.removesuffix(".scales") for name in a if name.endswith(".scales")):
            packings = [{k: q.get(name, q)[k] for k in ("group_size", "bits")} for q in (qa, qb)]
            if packings[0] != packings[1]:
                failures.append(f"config.json, {key}, {name}: {packings}")
    return len(a)


def compute():
    utils = importlib.import_module(f"{tool}.utils")
    model = utils.load(ours)[0] if tool == "mlx_lm" else utils.load_model(Path(ours))
    out = model(mx.array([[1, 2, 3, 4]]))
    if not mx.all(mx.isfinite(getattr(out, "logits", out))).item():
        failures.append("logits of ours are not finite")


measures = config(source).get("img_processor", {}).get("vision_config")
if tool == "mlx_vlm" and measures:
    allow_small_towers(measures)
convert = importlib.import_module(f"{tool}.convert").convert
arguments = dict(quantize=True, q_bits=int(bits), q_group_size=int(group_size), q_mode=mode)
convert(source, theirs, quant_predicate=recipe[0] if recipe else None, **arguments)
count = compare()
compute()
print(f"{tool}, {source}, {bits} bits {mode} {recipe}: {count} tensors, {len(failures)} differences")
print("\n".join(failures))
sys.exit(bool(failures))
