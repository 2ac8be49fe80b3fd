"""Drawings that a package keeps as SVG, as pictures."""
import json
import re
from pathlib import Path

import resvg_py

SIDE = 128
# What a style calls what others call otherwise.
OWN_NAMES = {
    "chick": "front facing chick", "pizza": "slice of pizza", "shirt": "mans shirt", "phone": "cellphone", "scissors": "black scissors",
    "house": "house building", "umbrella": "umbrella with rain drops", "laptop": "laptop computer",
}


def plain(name):
    return re.sub("[^a-z0-9]", "", name.lower())


def spellings(code):
    """Of an emoji's code: packages do not agree on the mark that asks for a picture in place of a letter."""
    return code, code.replace("-fe0f", ""), f"{code}-fe0f"


def find(icons, by_code, objects, codes):
    """Of each thing that the style has, the icon: by the emoji's code where the style tells it, else by what it is called."""
    known = {plain(icon): icon for icon in icons}
    found = {}
    for name, label in objects.items():
        called = (label, name, label + "face", name + "face", label + "1", name + "1", OWN_NAMES.get(name, name))
        named = (known[plain(other)] for other in called if plain(other) in known)
        coded = (by_code[code] for code in spellings(codes[label]) if code in by_code)
        icon = next(coded, None) or next(named, None)
        if icon:
            found[name] = icons[icon]
    return found


def of_one_file(folder, objects, codes):
    """Of each thing that a style has in one JSON file, its SVG."""
    style, by_code = (json.loads((folder / name).read_text()) for name in ("icons.json", "chars.json"))
    for name, icon in find(style["icons"], by_code, objects, codes).items():
        width, height = (icon.get(side, style.get(side, 16)) for side in ("width", "height"))
        yield name, (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                     f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>')


def of_files(folder, objects, codes):
    """Of each thing that a style has in a file with the emoji's code, its SVG."""
    for name, label in objects.items():
        paths = (folder / "assets" / f"{code}.svg" for code in spellings(codes[label]))
        if path := next(filter(Path.exists, paths), None):
            yield name, path.read_text()


def draw(folder, into, objects, codes):
    """Writes what `folder` has of the things as NAME.png."""
    svgs = of_one_file if (folder / "icons.json").exists() else of_files
    for name, svg in svgs(folder, objects, codes):
        (into / f"{name}.png").write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE)))
