"""Adapters of Hugging Face's PEFT, on a tiny Llama with random weights.

    python adapter_peft.py make FOLDER
    python adapter_peft.py load FOLDER ADAPTER MERGED

`make` writes the model (FOLDER/model) and, for every kind of adapter, what PEFT saves (FOLDER/KIND) and the model with
it merged (FOLDER/KIND.safetensors). `load` compares, to 1e-4, the logits of the model with ADAPTER attached by PEFT with
those of the model with the weights of MERGED in the place of its own, and ends with 1 if they differ.
"""

import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(2)
torch.set_grad_enabled(False)
command, folder = sys.argv[1], Path(sys.argv[2])
ATTENTION = ["q_proj", "v_proj"]
KINDS = {
    "lora": dict(r=4, lora_alpha=6, target_modules=ATTENTION),
    "dora": dict(r=4, lora_alpha=6, target_modules=ATTENTION + ["down_proj"], use_dora=True),
    "rslora": dict(r=3, lora_alpha=5, target_modules=["o_proj"], use_rslora=True),
    "patterns": dict(
        r=4,
        lora_alpha=6,
        target_modules=ATTENTION + ["down_proj"],
        rank_pattern={"v_proj": 2, r"layers\.1\.mlp\..*": 3},
        alpha_pattern={"model.layers.1.self_attn.q_proj": 1, "down_proj": 9},
    ),
    "head": dict(r=4, lora_alpha=6, target_modules=ATTENTION + ["lm_head"], modules_to_save=["norm", "embed_tokens"]),
}


def base():
    return LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32).eval()


def make():
    torch.manual_seed(1)
    measures = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, **measures))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder / "model")
    for kind, config in KINDS.items():
        model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **config))
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / kind)
        merged = model.merge_and_unload().state_dict()
        save_file({name: tensor.contiguous() for name, tensor in merged.items()}, folder / f"{kind}.safetensors")


def load():
    adapter, merged = sys.argv[3], load_file(sys.argv[4])
    ids = torch.tensor([[1, 5, 9, 2, 77, 30]])
    plain = base()
    before = plain(ids).logits
    unknown = set(plain.load_state_dict(merged, strict=False).unexpected_keys)
    expected = plain(ids).logits
    model = PeftModel.from_pretrained(base(), adapter).eval()
    halves = [name.split(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name]
    attached = {name.removeprefix("base_model.model.") for name in halves}
    wanted = {name.removesuffix(".weight") for name in merged}
    difference = (model(ids).logits - expected).abs().max().item()
    changed = (before - expected).abs().max().item()
    print(f"{adapter}: {len(wanted)} weights, logits differ by {difference:.2e}; unchanged they would by {changed:.2e}")
    return not unknown and attached == wanted and difference < 1e-4 < 1e-2 < changed


sys.exit(make() if command == "make" else not load())
