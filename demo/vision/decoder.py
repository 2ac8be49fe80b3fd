"""How the decoder begins: the heads of its first layer know where a vector stands, whatever it is.

Two look at what stands just before. In a line of a picture's vectors that tells how long ago the separator was, and so the
column, which nothing else tells of two tiles beside each other. One compares the words before the picture with all that came
since, which tells the line. And the tower's numbers of a place in its tile come in as they are. All this is learnt from
random weights only after many pictures.
"""
import numpy as np

from tower import PLACE, WIDTH

# What is the same in all vectors that go in, so that queries and keys differ by their place only: in words, in pictures.
SAME, IN_WORDS, IN_PICTURES = 0, 1.0, 2.0
# What only words have.
WORD = 1
# The frequencies of rotary embedding that each head takes, by number: of weights on what is 0, 1, 2, … before, half are on the
# first two, and on the first three; the last ones turn too slowly to tell places of a short prompt.
NEARBY = [range(3, 9), range(5, 11)]
EVERYWHERE = range(28, 32)
# What the tower says of a place, the mean of the four patches that become one vector. A nonlinearity is between, which is none
# for numbers that are large enough.
PLACES, LARGE = range(2, 2 + PLACE), 3


def begin(arrays, heads):
    """Changes random weights into those that it begins with."""
    first, second = (f"model.vision_embed_tokens.img_projection.{at}" for at in (0, 2))
    for number, in_words, in_pictures in ((SAME, IN_WORDS, IN_PICTURES), (WORD, IN_WORDS, 0)):
        arrays["model.embed_tokens.weight"][:, number] = in_words
        arrays[f"{second}.weight"][number] = 0
        arrays[f"{second}.bias"][number] = in_pictures
    units = slice(PLACE)
    arrays[f"{first}.weight"][units] = np.tile(np.eye(PLACE, WIDTH) / 4, 4)
    arrays[f"{first}.bias"][units] = LARGE
    arrays[f"{second}.weight"][:, units] = 0
    arrays[f"{second}.weight"][PLACES] = np.eye(PLACE, arrays[f"{second}.weight"].shape[1])
    arrays[f"{second}.bias"][PLACES] = -LARGE

    qkv, output = (arrays[f"model.layers.0.self_attn.{name}.weight"] for name in ("qkv_proj", "o_proj"))
    hidden = len(output)
    queries, keys, values = qkv.reshape(3, heads, hidden // heads, hidden)
    for head, frequencies in enumerate([*NEARBY, EVERYWHERE]):
        key = WORD if frequencies is EVERYWHERE else SAME
        for part, number in ((queries, SAME), (keys, key)):
            part[head] = 0
            part[head, frequencies.start : frequencies.stop, number] = 2 ** 0.5
    values[-1, :, WORD] = 1
    output *= 2
