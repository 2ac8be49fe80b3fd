"""Drawings that a package keeps as SVG, as pictures."""
import json
import re

import resvg_py

SIDE = 128
# What a style calls what others call otherwise.
OWN_NAMES = {
    "chick": "front facing chick", "pizza": "slice of pizza", "shirt": "mans shirt", "phone": "cellphone", "scissors": "black scissors",
    "house": "house building", "umbrella": "umbrella with rain drops", "laptop": "laptop computer",
}


def plain(name):
    return re.sub("[^a-z0-9]", "", name.lower())


def find(icons, by_code, objects, codes):
    """Of each thing that the style has, the icon: by the emoji's code where the style tells it, else by what it is called."""
    known = {plain(icon): icon for icon in icons}
    found = {}
    for name, label in objects.items():
        code = codes[label]
        called = (label, name, label + "face", name + "face", label + "1", name + "1", OWN_NAMES.get(name, name))
        named = (known[plain(other)] for other in called if plain(other) in known)
        icon = by_code.get(code) or by_code.get(code.replace("-fe0f", "")) or next(named, None)
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
        for code in (codes[label], codes[label].replace("-fe0f", ""), codes[label] + "-fe0f"):
            if (path := folder / "assets" / f"{code}.svg").exists():
                yield name, path.read_text()
                break


def draw(folder, into, objects, codes):
    """Writes what `folder` has of the things as NAME.png."""
    svgs = of_one_file if (folder / "icons.json").exists() else of_files
    for name, svg in svgs(folder, objects, codes):
        (into / f"{name}.png").write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIDE)))
