"""Converts a checkpoint with mlx-lm or mlx-vlm and compares with phi3v's conversion of it, bit for bit.

    python peer_conversion.py mlx_lm|mlx_vlm SOURCE OURS THEIRS BITS GROUP_SIZE MODE [RECIPE]

THEIRS is written; OURS is loaded by the tool, too, and computes. Prints what differs and ends with 1 if anything does.
"""

import importlib
import json
import sys

import mlx.core as mx

tool, source, ours, theirs, bits, group_size, mode, *recipe = sys.argv[1:]
convert = importlib.import_module(f"{tool}.convert").convert
arguments = dict(quantize=True, q_bits=int(bits), q_group_size=int(group_size), q_mode=mode)
convert(source, theirs, quant_predicate=recipe[0] if recipe else None, **arguments)

failures = []


def tensors(folder):
    with open(f"{folder}/model.safetensors.index.json") as file:
        index = json.load(file)
    found = {}
    for name in sorted(set(index["weight_map"].values())):
        arrays, metadata = mx.load(f"{folder}/{name}", return_metadata=True)
        if metadata.get("format") != "mlx":
            failures.append(f"{folder}/{name}: metadata {metadata}")
        found.update(arrays)
    if sorted(index["weight_map"]) != list(index["weight_map"]) or set(index["weight_map"]) != set(found):
        failures.append(f"{folder}: the index does not fit")
    return found, index["metadata"]["total_size"]


(a, size_a), (b, size_b) = tensors(ours), tensors(theirs)
if size_a != size_b:
    failures.append(f"total_size {size_a}, {size_b}")
for name in sorted(set(a) | set(b)):
    if name not in a or name not in b:
        failures.append(f"{name} only in {'theirs' if name in b else 'ours'}")
    elif a[name].dtype != b[name].dtype or a[name].shape != b[name].shape:
        failures.append(f"{name}: {a[name].dtype} {a[name].shape}, {b[name].dtype} {b[name].shape}")
    else:
        # As integers: a NaN equals nothing, and zeros have signs.
        kind = {4: mx.uint32, 2: mx.uint16, 1: mx.uint8}[a[name].dtype.size]
        unequal = mx.sum(a[name].view(kind) != b[name].view(kind)).item()
        if unequal:
            failures.append(f"{name}: {unequal} of {a[name].size} differ")


def config(folder):
    with open(f"{folder}/config.json") as file:
        return json.load(file)


ca, cb = config(ours), config(theirs)
for key in ["quantization", "quantization_config"]:
    default = {key: ca[key][key] for key in []} if False else None
    same = lambda q, name: {k: q.get(name, q)[k] for k in ("group_size", "bits")}
    for name in (name[: -len(".scales")] for name in a if name.endswith(".scales")):
        if same(ca[key], name) != same(cb[key], name):
            failures.append(f"config.json, {key}, {name}: {same(ca[key], name)}, {same(cb[key], name)}")

load = importlib.import_module(f"{tool}.utils").load
model, *_ = load(ours) if tool == "mlx_lm" else (importlib.import_module("mlx_vlm.utils").load_model(__import__("pathlib").Path(ours)),)
out = model(mx.array([[1, 2, 3, 4]]))
logits = getattr(out, "logits", out)
if not mx.all(mx.isfinite(logits)).item():
    failures.append("logits of ours are not finite")

print(f"{tool} {bits} bits {mode}: {len(a)} tensors, {len(failures)} differences")
print("\n".join(failures))
sys.exit(bool(failures))
