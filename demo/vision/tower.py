"""How the vision tower begins: each place knows the whole picture as a thumbnail, before anything is learnt.

What a thing is can be told from that at once; random weights find their way to it only after many pictures.
"""
import numpy as np

SIDE, PATCH = 336, 84
GRID = SIDE // PATCH
VISION = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 16, "num_hidden_layers": 2}
WIDTH, HEADS = VISION["hidden_size"], VISION["num_attention_heads"]
HEAD_DIM = WIDTH // HEADS
# Of places along an axis, in radians per patch.
FREQUENCIES = np.pi * np.array([1, 2]) / GRID
# Numbers that tell the place, the first of each vector: sine and cosine of each frequency along a line, then down a column.
PLACE = 4 * len(FREQUENCIES)


def waves(places):
    """Sine and cosine of each frequency at places along an axis: `[places, 2 * frequencies]`"""
    angles = np.asarray(places, np.float32)[:, None] * FREQUENCIES
    return np.stack([np.sin(angles), np.cos(angles)], 2).reshape(len(angles), -1)


def positions():
    """The waves of each patch's line and column: `[GRID² + 1, WIDTH]`, nothing for the class."""
    table = np.zeros((GRID ** 2 + 1, WIDTH), np.float32)
    table[1:, : PLACE // 2] = np.tile(waves(range(GRID)), (GRID, 1))
    table[1:, PLACE // 2 : PLACE] = np.repeat(waves(range(GRID)), GRID, 0)
    return table


def waves_of_patches():
    """The lowest waves of brightness and of two differences of colors, stronger the finer they are, as pictures have less of
    the fine ones: noise in their place would show little but a patch's mean. `[WIDTH, 3, PATCH, PATCH]`"""
    at = (np.arange(PATCH) + 0.5) / PATCH * np.pi
    colors = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.array([[3], [2], [6]]) ** 0.5
    ranked = sorted((((x * x + y * y) ** 0.5 * (1.5 if color else 1), color, y, x)
                     for color in range(3) for y in range(PATCH) for x in range(PATCH)))[: WIDTH - PLACE]
    # The first numbers are the place's.
    filters = [np.zeros((3, PATCH, PATCH))] * PLACE
    for _, color, y, x in ranked:
        wave = np.outer(np.cos(y * at), np.cos(x * at))
        scale = (0.0145 if color else 0.00725) * (0.3 + 0.7 * (x * x + y * y) ** 0.5)
        filters.append(colors[color][:, None, None] * wave / np.linalg.norm(wave) * scale)
    return np.stack(filters).astype(np.float32)


def regions():
    """Weights with which each head attends to a patch, and takes its lowest waves."""
    values, bias = np.zeros((WIDTH, WIDTH), np.float32), np.zeros(WIDTH, np.float32)
    for head in range(HEADS):
        start, (y, x) = HEAD_DIM * head, divmod(head, GRID)
        bias[start : start + PLACE] = 0.5 * np.concatenate([waves([x])[0], waves([y])[0]])
        values[start : start + HEAD_DIM, PLACE : PLACE + HEAD_DIM] = np.eye(HEAD_DIM)
    return {"q_proj.weight": np.zeros_like(values), "q_proj.bias": bias, "v_proj.weight": values, "v_proj.bias": np.zeros_like(bias)}


def begin(arrays, layer):
    """Writes a layer's queries, keys and values, and changes its random weights into those that it begins with."""
    # What is looked at is told by the place, which is kept as it is.
    arrays[f"{layer}.layer_norm1.weight"][:PLACE] = 3
    for name in ("self_attn.out_proj", "mlp.fc2"):
        arrays[f"{layer}.{name}.weight"][:PLACE] = 0
    keys = np.zeros((WIDTH, WIDTH), np.float32)
    for start in range(0, WIDTH, HEAD_DIM):
        keys[start : start + PLACE, :PLACE] = np.eye(PLACE)
    for name, array in {"k_proj.weight": keys, "k_proj.bias": np.zeros(WIDTH, np.float32), **regions()}.items():
        arrays[f"{layer}.self_attn.{name}"] = array
