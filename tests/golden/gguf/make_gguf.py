"""Writes tiny GGUF files and what the gguf package makes of them.
usage: python make_gguf.py        (here; pip install gguf==0.17.1 numpy)

blocks.gguf + blocks.json   a llama file with one tensor of every supported type, blocks of random bits with sane scales;
                            blocks.json holds the SHA-256 of gguf.quants.dequantize's float32 and the first 4 values
llama.gguf, phi3.gguf, qwen2.gguf, gemma.gguf   models of one layer with random weights and a few tokens; models.json
                            holds the SHA-256 of some tensors as Hugging Face has them
"""
import hashlib, json
import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T, GGML_QUANT_SIZES, RopeScalingType, TokenType, dequantize, quantize

rng = np.random.default_rng(7)
# Where each format keeps its float16 scales: random bits there would be infinities and numbers that are none.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
# A llama's tensors, to give each type one that has a name.
NAMES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_norm"]


def blocks(kind, rows, columns):
    values, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (rows * columns // values, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = (rng.standard_normal(len(data)) * 0.05).astype(np.float16)
        data[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def sizes(w, arch, heads=4, kv_heads=2, hidden=32, inner=64, layers=1, context=512, head_dim=None):
    w.add_block_count(layers), w.add_context_length(context), w.add_embedding_length(hidden)
    w.add_feed_forward_length(inner), w.add_head_count(heads), w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(1e-5), w.add_rope_dimension_count(head_dim or hidden // heads)


def sentencepiece(w, name="llama"):
    """A handful of pieces; 'hello world' merges in the order of their scores."""
    tokens = [("<unk>", 0.0, TokenType.UNKNOWN), ("<s>", 0.0, TokenType.CONTROL), ("</s>", 0.0, TokenType.CONTROL)]
    tokens += [(f"<0x{i:02X}>", 0.0, TokenType.BYTE) for i in range(256)]
    pieces = ["he", "ll", "llo", "hello", "▁hello", "wor", "ld", "world", "▁world", "or", "▁w", "▁h", "▁", *"helowrd"]
    tokens += [(piece, -float(i + 1), TokenType.NORMAL) for i, piece in enumerate(pieces)]
    tokens += [("<|end|>", -1000.0, TokenType.CONTROL), ("  ", -1000.0, TokenType.USER_DEFINED)]
    w.add_tokenizer_model(name), w.add_token_list([t[0] for t in tokens])
    w.add_token_scores([t[1] for t in tokens]), w.add_token_types([t[2] for t in tokens])
    w.add_bos_token_id(1), w.add_eos_token_id(2), w.add_unk_token_id(0)
    return len(tokens)


def write(w):
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def f16(*shape):
    return (rng.standard_normal(shape) * 0.1).astype(np.float16)


def every_type():
    w = GGUFWriter("blocks.gguf", "llama")
    sizes(w, "llama", heads=2, kv_heads=1, hidden=256, inner=256)
    expected = {}

    def put(name, data, kind, hf):
        w.add_tensor(name, data, raw_dtype=kind)
        values = dequantize(data, kind).astype("<f4") if kind != T.BF16 else dequantize(data.view(np.uint8), kind)
        expected[hf] = {"type": kind.name, "shape": list(values.shape), "first": [float(v) for v in values.reshape(-1)[:4]],
                        "sha256": hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()}
    layer, hf = iter(range(100)), "model.layers.{}.mlp.down_proj.weight"
    for kind in SCALES:
        n = next(layer)
        put(f"blk.{n}.ffn_down.weight", blocks(kind, 3, 512), kind, hf.format(n))
    n = next(layer)
    put(f"blk.{n}.ffn_down.weight", f16(2, 32), T.F16, hf.format(n))
    n = next(layer)
    put(f"blk.{n}.ffn_down.weight", f16(2, 32).astype(np.float32), T.F32, hf.format(n))
    n = next(layer)
    put(f"blk.{n}.ffn_down.weight", quantize(f16(2, 32).astype(np.float32), T.BF16), T.BF16, hf.format(n))
    # Weights as they are, quantized by the package: what our own writer must give.
    weights = (rng.standard_normal((4, 64)) * 0.1).astype(np.float32)
    weights[1, :32] = 0
    weights[2, :4] = [1.5, -1.5, 1.5, -1.5]
    w.add_tensor("blk.20.ffn_up.weight", weights)
    for n, kind in [(21, T.Q8_0), (22, T.Q4_0)]:
        w.add_tensor(f"blk.{n}.ffn_up.weight", quantize(weights, kind), raw_dtype=kind)
    json.dump(expected, open("blocks.json", "w"), indent=1)
    write(w)


# What Hugging Face's checkpoints would hold, by architecture and name.
HASHES = {}


def permute(data, heads):
    """llama.cpp's conversion/llama.py"""
    return data.reshape(heads, 2, len(data) // heads // 2, -1).swapaxes(1, 2).reshape(data.shape)


def model(arch, fused=False, **kwargs):
    hidden, inner, heads, kv_heads = 32, 64, 4, 2
    head_dim = kwargs.get("head_dim") or hidden // heads

    def norm(name):
        # Multiples of 1/1024, which stay what they are when Gemma's 1 is added.
        data = np.round(rng.standard_normal(hidden) * 100).astype(np.float32) / 1024 + 0
        note(name, data)
        return data + 1 if arch == "gemma" else data

    def note(name, data):
        HASHES.setdefault(arch, {})[name] = hashlib.sha256(data.tobytes()).hexdigest()

    def tensors(w, vocab, bias=False):
        put = w.add_tensor
        w.add_tensor("token_embd.weight", quantize(f16(vocab, hidden).astype(np.float32), T.Q8_0), raw_dtype=T.Q8_0)
        put("output_norm.weight", norm("model.norm.weight"))
        q, kv = heads * head_dim, kv_heads * head_dim
        parts = [("attn_qkv", q + 2 * kv, hidden)] if fused else [("attn_q", q, hidden), ("attn_k", kv, hidden), ("attn_v", kv, hidden)]
        parts += [("attn_output", hidden, q), ("ffn_down", hidden, inner), ("ffn_up", (2 if fused else 1) * inner, hidden)]
        parts += [] if fused else [("ffn_gate", inner, hidden)]
        for name, rows, columns in parts:
            data = f16(rows, columns)
            if arch == "llama" and name in ("attn_q", "attn_k"):
                note(f"model.layers.0.self_attn.{name[-1]}_proj.weight", data)
                data = permute(data, heads if name == "attn_q" else kv_heads)
            put(f"blk.0.{name}.weight", data)
            if bias and name in ("attn_q", "attn_k", "attn_v"):
                put(f"blk.0.{name}.bias", f16(rows).astype(np.float32))
        put("blk.0.attn_norm.weight", norm("model.layers.0.input_layernorm.weight"))
        put("blk.0.ffn_norm.weight", norm("model.layers.0.post_attention_layernorm.weight"))
    w = GGUFWriter(f"{arch}.gguf", arch)
    sizes(w, arch, **kwargs)
    return w, tensors


def models():
    w, tensors = model("llama", context=131072)
    vocab = sentencepiece(w)
    tensors(w, vocab)
    w.add_rope_freq_base(500000.0)
    # Llama 3's factors, as llama.cpp's converter computes them: factor 8, 1, 4, 8192.
    freqs = 1.0 / 500000.0 ** (np.arange(0, 8, 2, dtype=np.float32) / 8)
    turns = 8192 * freqs / (2 * np.pi)
    smooth = (turns - 1) / 3
    factors = np.where(turns > 4, 1, np.where(turns < 1, 8, 1 / ((1 - smooth) / 8 + smooth)))
    w.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    w.add_tensor("output.weight", f16(vocab, 32))
    w.add_chat_template("{{ bos_token }}{{ messages[0]['content'] }}")
    write(w)

    w, tensors = model("phi3", fused=True, context=4096)
    w.add_name("Tiny phi3")
    w.add_rope_scaling_orig_ctx_len(512), w.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(8) / np.log(512))))
    w.add_sliding_window(2047), w.add_rope_freq_base(10000.0)
    tensors(w, sentencepiece(w))
    w.add_tensor("rope_factors_long.weight", np.linspace(1, 8, 4).astype(np.float32))
    w.add_tensor("rope_factors_short.weight", np.linspace(1, 1.0256, 4).astype(np.float32))
    write(w)

    w, tensors = model("gemma", head_dim=16)
    w.add_key_length(16), w.add_value_length(16)
    tensors(w, sentencepiece(w))
    w.add_add_space_prefix(False)
    write(w)

    w, tensors = model("qwen2")
    w.add_rope_freq_base(1000000.0)
    tokens = ["h", "e", "l", "o", "Ġ", "w", "r", "d", "he", "ll", "hell", "hello", "Ġw", "1", "2", "Ċ", "Ġhello"]
    types = [TokenType.NORMAL] * len(tokens) + [TokenType.CONTROL, TokenType.CONTROL]
    tokens += ["<|endoftext|>", "<|im_end|>"]
    w.add_tokenizer_model("gpt2"), w.add_tokenizer_pre("qwen2"), w.add_token_list(tokens), w.add_token_types(types)
    w.add_token_merges(["h e", "l l", "he ll", "hell o", "Ġ w", "Ġ hello"])
    w.add_bos_token_id(17), w.add_eos_token_id(18)
    tensors(w, len(tokens), bias=True)
    write(w)


every_type()
models()
json.dump(HASHES, open("models.json", "w"), indent=1)
