#!/usr/bin/env python3
"""gguf_random.py OUT: Phi-3.5-mini's shape with random Q4_0 weights and no vocabulary, for llama.cpp's llama-bench."""
import sys

import gguf
import numpy as np

HIDDEN, INTERMEDIATE, VOCAB, LAYERS = 3072, 8192, 32064, 32
rng = np.random.default_rng(0)
out = gguf.GGUFWriter(sys.argv[1], "phi3")
out.add_context_length(131072)
out.add_embedding_length(HIDDEN)
out.add_feed_forward_length(INTERMEDIATE)
out.add_block_count(LAYERS)
out.add_head_count(32)
out.add_head_count_kv(32)
out.add_layer_norm_rms_eps(1e-5)
out.add_rope_dimension_count(96)
out.add_rope_freq_base(10000.0)
out.add_rope_scaling_orig_ctx_len(4096)
out.add_sliding_window(262144)
out.add_vocab_size(VOCAB)
out.add_tokenizer_model("no_vocab")


def packed(name, outputs, inputs):
    blocks = np.empty((outputs, inputs // 32, 18), np.uint8)
    blocks[..., 2:] = rng.integers(0, 256, (outputs, inputs // 32, 16), np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    out.add_tensor(name, blocks.reshape(outputs, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)


ones = np.ones(HIDDEN, np.float32)
packed("token_embd.weight", VOCAB, HIDDEN)
packed("output.weight", VOCAB, HIDDEN)
out.add_tensor("output_norm.weight", ones)
for length in "long", "short":
    out.add_tensor(f"rope_factors_{length}.weight", np.ones(48, np.float32))
for layer in range(LAYERS):
    block = f"blk.{layer}."
    out.add_tensor(block + "attn_norm.weight", ones)
    out.add_tensor(block + "ffn_norm.weight", ones)
    packed(block + "attn_qkv.weight", 3 * HIDDEN, HIDDEN)
    packed(block + "attn_output.weight", HIDDEN, HIDDEN)
    packed(block + "ffn_up.weight", 2 * INTERMEDIATE, HIDDEN)
    packed(block + "ffn_down.weight", HIDDEN, INTERMEDIATE)
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
