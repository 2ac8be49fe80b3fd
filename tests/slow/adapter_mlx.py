"""Adapters of mlx-lm and mlx-vlm.

    python adapter_mlx.py mlx_lm|mlx_vlm make MODEL FOLDER
    python adapter_mlx.py mlx_lm|mlx_vlm load MODEL ADAPTER MERGED

`make` writes, for every kind of adapter, what the tool saves (FOLDER/KIND) and the weights that it makes of it
(FOLDER/KIND.safetensors). `load` has the tool attach ADAPTER and compares what it makes of it with the weights of MERGED;
ends with 1 if they differ or are not the same modules.
"""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

tool, command, source, folder, *merged = sys.argv[1:]
KEYS = ["model.layers.0.self_attn.qkv_proj", "model.layers.1.self_attn.qkv_proj", "model.layers.1.mlp.down_proj"]
mx.set_default_device(mx.cpu)


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


def base():
    utils = importlib.import_module(f"{tool}.utils")
    loaded = utils.load_model(Path(source))
    model = loaded[0] if isinstance(loaded, tuple) else loaded
    model.set_dtype(mx.float32)
    return model


def weights(model):
    """What the tool's own layers come to."""
    found = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_a"):
            found[f"{name}.weight"] = layer.fuse().weight
        elif hasattr(layer, "A"):
            found[f"{name}.weight"] = layer.original_layer.weight + (layer.scale * layer.A @ layer.B).T
    return found


def shake(model):
    """As if it had been trained: B begins as zeros."""
    moved = tree_map(lambda x: x + 0.1 * mx.random.normal(x.shape), model.trainable_parameters())
    model.update(moved)


def save(model, kind, config=None):
    target = Path(folder, kind)
    target.mkdir(parents=True)
    if tool == "mlx_lm":
        mx.save_safetensors(str(target / "adapters.safetensors"), dict(tree_flatten(model.trainable_parameters())))
        importlib.import_module("mlx_lm.utils").save_config(config, target / "adapter_config.json")
    else:
        importlib.import_module("mlx_vlm.trainer.peft").save_adapter(model, target / "adapters.safetensors")
    mx.save_safetensors(str(target) + ".safetensors", weights(model))


def make():
    mx.random.seed(1)
    if tool == "mlx_lm":
        tuner = importlib.import_module("mlx_lm.tuner.utils")
        for kind in ["lora", "dora"]:
            model = base()
            model.freeze()
            config = {"fine_tune_type": kind, "num_layers": 1, "model": source}
            config["lora_parameters"] = {"rank": 3, "scale": 1.5, "dropout": 0.0}
            tuner.linear_to_lora_layers(model, 1, config["lora_parameters"], use_dora=kind == "dora")
            shake(model)
            save(model, kind, config)
    else:
        peft = importlib.import_module("mlx_vlm.trainer.peft")
        for kind in ["lora", "dora", "legacy"]:
            options = dict(rank=3, alpha=4.5, dropout=0.0, verbose=False)
            model = peft.get_peft_model(base(), KEYS, legacy=kind == "legacy", use_dora=kind == "dora", **options)
            shake(model)
            save(model, kind)


def load():
    model = base()
    if tool == "mlx_lm":
        model = importlib.import_module("mlx_lm.tuner.utils").load_adapters(model, folder)
    else:
        model = importlib.import_module("mlx_vlm.trainer.peft").load_adapters(model, folder)
    theirs, ours = weights(model), mx.load(merged[0])
    same = set(theirs) == set(ours)
    difference = max(mx.abs(theirs[name] - ours[name]).max().item() for name in ours) if same else float("inf")
    print(f"{tool}, {folder}: {len(ours)} weights differ by {difference:.2e}")
    return difference < 1e-5


measures = json.loads(Path(source, "config.json").read_text()).get("img_processor", {}).get("vision_config")
if tool == "mlx_vlm" and measures:
    allow_small_towers(measures)
sys.exit(make() if command == "make" else not load())
