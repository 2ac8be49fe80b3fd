"""A model that has learnt nothing yet: its files, its tokenizer and random weights."""
import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import decoder
import tower
from tower import GRID, VISION

SPECIAL = ["<unk>", "<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|image|>"]
TEMPLATE = ("{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
TEXT = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 3, "num_hidden_layers": 4}


def tokenizer(texts, vocab_size):
    """Bytes, merged where they often stand together; digits stay alone, and capitals do as no text has words of them."""
    made = Tokenizer(models.BPE())
    # As in Phi-3's: a name that is a whole answer is the token that it is within a question.
    made.normalizer = normalizers.Sequence([normalizers.Strip(right=False), normalizers.Prepend(" ")])
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"\d| ?\p{L}+| ?[^\s\p{L}\d]+|\s"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=2, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made.add_special_tokens([AddedToken(token, rstrip=token.startswith("<|") and token != "<|endoftext|>", special=True, normalized=False)
                             for token in SPECIAL])
    return made


def config(vocab_size):
    half = TEXT["hidden_size"] // TEXT["num_attention_heads"] // 2
    return {
        "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "vocab_size": vocab_size, **TEXT,
        "num_key_value_heads": TEXT["num_attention_heads"], "hidden_act": "silu", "rms_norm_eps": 1e-05,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * half,
                         "long_factor": [round(32 ** (at / (half - 1)), 4) for at in range(half)]},
        "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "float32",
        "bos_token_id": SPECIAL.index("<s>"), "eos_token_id": SPECIAL.index("<|endoftext|>"), "pad_token_id": SPECIAL.index("<|endoftext|>"),
        "embd_layer": {"embedding_cls": "image", "hd_transform_order": "sub_glb", "projection_cls": "mlp",
                       "use_hd_transform": True, "with_learnable_separator": True},
        "img_processor": {"name": "clip_vision_model", "model_name": "openai/clip-vit-large-patch14-336", "layer_idx": -1,
                          "image_dim_out": VISION["hidden_size"], "num_img_tokens": (GRID // 2) ** 2,
                          "vision_config": {**VISION, "image_size": tower.SIDE, "patch_size": tower.PATCH, "num_channels": 3,
                                            "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05}},
    }


def weights(vocab_size, seed=0):
    rng, arrays = np.random.default_rng(seed), {}

    def normal(name, *shape, std=0.02):
        arrays[name] = rng.normal(0, std, shape).astype(np.float32)

    def linear(name, out, inputs, bias=True, scale=1.0):
        normal(f"{name}.weight", out, inputs, std=scale * inputs ** -0.5)
        if bias:
            arrays[f"{name}.bias"] = np.zeros(out, np.float32)

    def norm(name, size, bias=False):
        arrays[f"{name}.weight"] = np.ones(size, np.float32)
        if bias:
            arrays[f"{name}.bias"] = np.zeros(size, np.float32)

    width, inner, layers = VISION["hidden_size"], VISION["intermediate_size"], VISION["num_hidden_layers"]
    prefix = "model.vision_embed_tokens.img_processor.vision_model"
    normal(f"{prefix}.embeddings.class_embedding", width)
    arrays[f"{prefix}.embeddings.patch_embedding.weight"] = tower.waves_of_patches()
    arrays[f"{prefix}.embeddings.position_embedding.weight"] = tower.positions()
    norm(f"{prefix}.pre_layrnorm", width, True)
    norm(f"{prefix}.post_layernorm", width, True)
    for at in range(layers):
        layer = f"{prefix}.encoder.layers.{at}"
        for name in ("layer_norm1", "layer_norm2"):
            norm(f"{layer}.{name}", width, True)
        linear(f"{layer}.self_attn.out_proj", width, width, scale=(2 * layers) ** -0.5)
        linear(f"{layer}.mlp.fc1", inner, width)
        linear(f"{layer}.mlp.fc2", width, inner, scale=(2 * layers) ** -0.5)
        tower.begin(arrays, layer)

    hidden, inner, layers = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["num_hidden_layers"]
    vision = "model.vision_embed_tokens"
    linear(f"{vision}.img_projection.0", hidden, 4 * width)
    linear(f"{vision}.img_projection.2", hidden, hidden)
    normal(f"{vision}.glb_GN", 1, 1, 4 * width, std=1.0)
    normal(f"{vision}.sub_GN", 1, 1, 1, 4 * width, std=1.0)
    normal("model.embed_tokens.weight", vocab_size, hidden, std=0.5)
    for at in range(layers):
        layer = f"model.layers.{at}"
        norm(f"{layer}.input_layernorm", hidden)
        norm(f"{layer}.post_attention_layernorm", hidden)
        linear(f"{layer}.self_attn.qkv_proj", 3 * hidden, hidden, False)
        linear(f"{layer}.self_attn.o_proj", hidden, hidden, False, (2 * layers) ** -0.5)
        linear(f"{layer}.mlp.gate_up_proj", 2 * inner, hidden, False)
        linear(f"{layer}.mlp.down_proj", hidden, inner, False, (2 * layers) ** -0.5)
    norm("model.norm", hidden)
    # Words are read and said with the same vectors: what a thing looks like is learnt from its name as an answer, and is known
    # when a question names it. Logits begin near 0 all the same.
    arrays["model.norm.weight"] *= 0.15
    decoder.begin(arrays, TEXT["num_attention_heads"])
    return arrays


def write(folder, texts, vocab_size=1024, num_crops=2):
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer(texts, vocab_size)
    vocab_size = -(-made.get_vocab_size() // 64) * 64
    made.save(str(folder / "tokenizer.json"))
    put = lambda name, content: (folder / name).write_text(json.dumps(content, indent=1) + "\n")
    put("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>",
                                  "unk_token": "<unk>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE,
                                  "clean_up_tokenization_spaces": False})
    put("preprocessor_config.json", {"image_processor_type": "Phi3VImageProcessor", "processor_class": "Phi3VProcessor",
                                     "num_crops": num_crops, "num_img_tokens": (GRID // 2) ** 2, "do_convert_rgb": True,
                                     "image_mean": [0.48145466, 0.4578275, 0.40821073],
                                     "image_std": [0.26862954, 0.26130258, 0.27577711]})
    put("generation_config.json", {"bos_token_id": 1, "eos_token_id": [SPECIAL.index("<|end|>"), SPECIAL.index("<|endoftext|>")]})
    put("config.json", config(vocab_size))
    save_file(weights(vocab_size), folder / "model.safetensors", {"format": "pt"})
