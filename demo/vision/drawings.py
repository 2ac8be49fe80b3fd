"""Drawings of things in several styles, and what changes them so that no picture is like another."""
import colorsys
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import icons

# Where each style's drawings lie.
STYLES = {
    "twemoji": "emoji-datasource-twitter-16.0.0/img/twitter/64",
    "noto": "emoji-datasource-google-16.0.0/img/google/64",
    "old twemoji": "emoji-datasource-twitter-3.0.0/img/twitter/64",
    "old noto": "emoji-datasource-google-3.0.0/img/google/64",
    "emojione": "emojione-2.2.7/assets/png_128x128",
    "fxemoji": "iconify-json-fxemoji-1.2.2/drawn",
    "streamline": "iconify-json-streamline-emojis-1.2.4/drawn",
    "openmoji": "iconify-json-openmoji-1.2.29/drawn",
    "emojione v1": "iconify-json-emojione-v1-1.2.3/drawn",
    "stamps": "tuxpaint-stamps-default-2022.06.04-1/drawn",
    "fluent 3d": "lobehub-fluent-emoji-3d-1.1.0/assets",
    "fluent flat": "lobehub-fluent-emoji-flat-1.1.0/drawn",
}
# Never trained on.
HELD_OUT_STYLES = ("twemoji", "old twemoji")
# Photos, for the most part, of a third of the things; for when drawings are known.
PHOTOS = "stamps"
# Whose licenses would be those of pictures made of them, too.
SHARE_ALIKE = ("openmoji", "emojione v1", "stamps")
FONTS = {
    "roboto": "fontsource-roboto-5.3.0/files/roboto-latin-{}-normal.woff",
    "oswald": "fontsource-oswald-5.3.0/files/oswald-latin-{}-normal.woff",
    "lora": "fontsource-lora-5.3.0/files/lora-latin-{}-normal.woff",
    "ubuntu": "fontsource-ubuntu-5.3.0/files/ubuntu-latin-{}-normal.woff",
    "open sans": "fontsource-open-sans-5.3.0/files/open-sans-latin-{}-normal.woff",
}
HELD_OUT_FONT = "open sans"
COLORS = {
    "red": (220, 30, 35), "orange": (250, 140, 10), "yellow": (245, 220, 20), "green": (40, 160, 50),
    "teal": (0, 128, 128), "blue": (30, 70, 220), "purple": (130, 40, 170), "pink": (250, 130, 190),
    "brown": (125, 75, 30), "black": (15, 15, 15), "gray": (128, 128, 128), "white": (250, 250, 250),
}
# What is seen on white.
INKS = [color for color in COLORS if color != "white"]
SHAPES = ["circle", "triangle", "rectangle"]


@dataclass(frozen=True)
class Source:
    """The packages' folder, which split to draw for, and the styles that are left out."""
    packages: Path
    held_out: bool
    without: tuple = (PHOTOS,)

    def styles(self):
        return [style for style in STYLES if (style in HELD_OUT_STYLES) == self.held_out and style not in self.without]

    def fonts(self):
        return [font for font in FONTS if (font == HELD_OUT_FONT) == self.held_out]

    def drawings(self, name):
        """The files of a thing."""
        found = files(self, name)
        # Some styles have not drawn everything.
        if len(found) < len([style for style in self.styles() if not STYLES[style].endswith("/drawn")]) or not found:
            raise SystemExit(f"{name} has {len(found)} drawings only")
        return found


@lru_cache
def objects():
    """What is named, with the emoji's label."""
    lines = (Path(__file__).parent / "objects.txt").read_text().splitlines()
    pairs = [line.partition(": ") for line in lines if line and not line.startswith("#")]
    return {name: label or name for name, _, label in pairs}


@lru_cache
def codes(packages):
    """Of each emoji's name."""
    data = json.loads((packages / "emojibase-data-17.0.0/en/data.json").read_text())
    return {entry["label"]: entry["hexcode"].lower() for entry in data}


def prepare(packages):
    """Makes files of what is none yet."""
    for style in STYLES.values():
        folder = packages / style
        if folder.name == "drawn" and not folder.exists():
            partial = folder.with_suffix(".partial")
            partial.mkdir(exist_ok=True)
            if style == STYLES[PHOTOS]:
                stamps(folder.parent, partial)
            else:
                icons.draw(folder.parent, partial, objects(), codes(packages))
            partial.rename(folder)


def stamps(package, into):
    """The pictures whose caption is the name of a thing: "An elephant."."""
    counted = Counter()
    for caption in sorted(package.rglob("*.txt")):
        text = caption.read_text(errors="replace").partition("\n")[0].strip().lower().rstrip(".!")
        name = re.sub("^(an?|the) ", "", text)
        if name in objects() and (picture := caption.with_suffix(".png")).exists():
            counted[name] += 1
            shutil.copy(picture, into / f"{name}{counted[name] if counted[name] > 1 else ''}.png")


@lru_cache(maxsize=None)
def files(source, name):
    code = codes(source.packages)[objects().get(name, name)]
    names = sorted({*icons.spellings(code), *(f"{name}{at}" for at in ("", 2, 3))})
    folders = [source.packages / STYLES[style] for style in source.styles()]
    paths = [folder / (name + ending) for folder in folders for name in names for ending in (".png", ".webp")]
    return [path for path in paths if path.exists()]


@lru_cache(maxsize=4096)
def read(path):
    drawing = Image.open(path).convert("RGBA")
    return drawing.crop(drawing.getbbox())


@lru_cache(maxsize=4096)
def main_color(path):
    """The color of most of a drawing; none where no color has most of it, or where people would not agree on its name."""
    drawing = read(path).resize((32, 32))
    rgba = np.asarray(drawing, np.float32) / 255
    pixels = rgba[rgba[..., 3] > 0.5][:, :3]
    counted = Counter(sure_color_of(*colorsys.rgb_to_hsv(*pixel)) for pixel in pixels)
    color, count = counted.most_common(1)[0]
    return color if count > 0.6 * len(pixels) else None


def sure_color_of(hue, saturation, value):
    """What a color is called, if one a little beside it is called the same."""
    shifts = (0, 0), (0.02, 0), (-0.02, 0), (0, 0.05), (0, -0.05)
    names = {color_of((hue + turn) % 1, saturation + shift, value + shift) for turn, shift in shifts}
    return names.pop() if len(names) == 1 else None


def color_of(hue, saturation, value):
    """What a color is called."""
    if value < 0.25:
        return "black"
    if saturation < 0.22:
        return "white" if value > 0.85 else "gray"
    degrees = 360 * hue
    if degrees < 45 and value < 0.65:
        return "brown"
    if degrees >= 345 or degrees < 12:
        return "pink" if saturation < 0.5 else "red"
    limits = ((42, "orange"), (68, "yellow"), (160, "green"), (195, "teal"), (250, "blue"), (290, "purple"), (345, "pink"))
    return next(color for limit, color in limits if degrees < limit)


def drawn(source, name, size, rng):
    """A drawing of a thing, as large as `size`, changed at random, little if it is held out; and its main color, where that is
    still the same."""
    path = rng.choice(source.drawings(name))
    drawing, color = fitted(read(path), size), main_color(path)
    if source.held_out:
        return slightly(drawing, rng), color
    if rng.random() < 0.3:
        drawing, color = blended(drawing, read(rng.choice(source.drawings(name))), rng), None
    strength = rng.random()
    return mixed(squeezed(slightly(drawing, rng), rng), strength, rng), color if strength < 0.4 else None


def blended(drawing, other, rng):
    """Something between two drawings of a thing, as if in one more style."""
    return Image.blend(drawing, other.resize(drawing.size, Image.BICUBIC), rng.uniform(0.2, 0.8))


def squeezed(drawing, rng):
    return drawing.resize([max(8, round(side * rng.uniform(0.88, 1))) for side in drawing.size])


def mixed(drawing, strength, rng):
    """With colors mixed from its own, more with more strength; and gray with the most: it is known by its shape then."""
    if strength > 0.95:
        rows = [[0.3, 0.6, 0.1]] * 3
    else:
        rows = [[(at == other) + rng.gauss(0, 0.2 * strength) for other in range(3)] for at in range(3)]
    matrix = [part for row in rows for part in (*row, 128 * (1 - sum(row)) + rng.gauss(0, 13 * strength))]
    other = drawing.convert("RGB").convert("RGB", matrix)
    other.putalpha(drawing.getchannel("A"))
    return other


def fitted(drawing, size):
    scale = size / max(drawing.size)
    return drawing.resize([max(8, round(side * scale)) for side in drawing.size], Image.BICUBIC)


def slightly(drawing, rng):
    return mirrored(drawing, rng).rotate(rng.uniform(-8, 8), Image.BICUBIC, expand=True)


def mirrored(drawing, rng):
    return drawing.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else drawing


def near(color, rng, spread=18):
    """A colour that has the same name."""
    if color in ("black", "white", "gray"):
        shifts = [rng.uniform(-spread, spread)] * 3
    else:
        shifts = [rng.uniform(-spread, spread) for _ in range(3)]
    return tuple(int(min(255, max(0, level + shift))) for level, shift in zip(COLORS[color], shifts))


def shape(kind, color, size, rng):
    """A shape of one colour."""
    image = Image.new("RGBA", (4 * size, 4 * size))
    draw, side = ImageDraw.Draw(image), 4 * size - 1
    fill = near(color, rng) + (255,)
    if kind == "circle":
        draw.ellipse((0, 0, side, side), fill)
    elif kind == "rectangle":
        short = side * rng.uniform(0.45, 1)
        box = (0, (side - short) / 2, side, (side + short) / 2)
        draw.rectangle(box if rng.random() < 0.5 else (box[1], box[0], box[3], box[2]), fill)
    else:
        top = rng.uniform(0.2, 0.8) * side
        draw.polygon(((top, 0), (0, side), (side, side)), fill)
        image = image.rotate(rng.choice((0, 90, 180, 270)))
    return image.resize((size, size), Image.LANCZOS)


def written(source, text, pitch, ink, rng):
    """A text whose letters are so far from each other, `[pitch, pitch * letters]`."""
    path = source.packages / FONTS[rng.choice(source.fonts())].format(rng.choice((400, 700)))
    font = ImageFont.truetype(path, round(pitch * rng.uniform(1, 1.15)))
    image = Image.new("RGBA", (pitch * len(text), pitch))
    draw = ImageDraw.Draw(image)
    for at, letter in enumerate(text):
        draw.text(((at + 0.5) * pitch, 0.86 * pitch), letter, ink + (255,), font, anchor="ms")
    return image


def background(color, width, height, rng):
    """A canvas: near one colour where that is given, else white, pale, or going from one pale colour to another."""
    if color:
        return Image.new("RGB", (width, height), near(color, rng))
    kind = rng.random()
    if kind < 0.5:
        return Image.new("RGB", (width, height), (255, 255, 255))
    pale = lambda: tuple(rng.randint(175, 255) for _ in range(3))
    if kind < 0.8:
        return Image.new("RGB", (width, height), pale())
    few = Image.new("RGB", (rng.randint(2, 5),) * 2)
    few.putdata([pale() for _ in range(few.width ** 2)])
    return few.resize((width, height), Image.BICUBIC)
