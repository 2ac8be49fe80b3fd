"""How the decoder begins: two heads of its first layer look at what stands just before, whatever it is.

In a line of a picture's vectors that tells how long ago the separator was, and so the column, which nothing else tells of two
tiles beside each other. Random heads find their way to it only after many pictures.
"""
# What is the same in all vectors that go in, so that queries and keys differ by their place only: in words, in pictures.
SAME, IN_WORDS, IN_PICTURES = 0, 1.0, 2.0
# The frequencies of rotary embedding that each head takes, by number: of weights on what is 0, 1, 2, … before, half are on the
# first two, and on the first three.
NEARBY = [range(3, 9), range(5, 11)]


def begin(arrays, heads):
    """Changes random weights into those that it begins with."""
    projection = "model.vision_embed_tokens.img_projection.2"
    arrays["model.embed_tokens.weight"][:, SAME] = IN_WORDS
    arrays[f"{projection}.weight"][SAME] = 0
    arrays[f"{projection}.bias"][SAME] = IN_PICTURES
    qkv, output = (arrays[f"model.layers.0.self_attn.{name}.weight"] for name in ("qkv_proj", "o_proj"))
    hidden = len(output)
    head_dim = hidden // heads
    for head, frequencies in enumerate(NEARBY):
        for start in (head * head_dim, hidden + head * head_dim):
            qkv[start : start + head_dim] = 0
            qkv[start + frequencies.start : start + frequencies.stop, SAME] = 2 ** 0.5
        output[:, head * head_dim : (head + 1) * head_dim] *= 2
