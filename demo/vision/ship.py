"""Puts what is shipped with phi3v into its place: the model, the pictures that its tests ask about, and README's."""
import json
import random
import shutil
from pathlib import Path

from PIL import Image

import drawings
import rows
import scenes

ROOT = Path(__file__).resolve().parent.parent.parent
# So many held-out rows of each skill.
SAMPLE = {"naming": 36}
OTHERS = 10
# What the model does not know, and learns in a test.
NEW = "ghost"
NEW_ROWS, NEW_TESTS = 20, 8
PICTURE = ROOT / "assets/demo.png"
SHOWN = {"left": "apple", "right": "balloon"}


def ship(out):
    model = ROOT / "demo/model"
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(out / "model", model, ignore=shutil.ignore_patterns("*.index.json"))
    tests = ROOT / "tests/demo"
    shutil.rmtree(tests, ignore_errors=True)
    (tests / "images").mkdir(parents=True)
    rows.write(tests / "test.jsonl", sample(out / "held-out", tests))
    new_thing(out / "packages", tests / "new")
    PICTURE.parent.mkdir(exist_ok=True)
    picture(out / "packages").save(PICTURE, optimize=True)


def sample(held_out, into):
    """The first held-out rows of each skill, and their pictures."""
    counted = {}
    for line in (held_out / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        skill = row["category"]
        counted[skill] = counted.get(skill, 0) + 1
        if counted[skill] <= SAMPLE.get(skill, OTHERS):
            for image in row["images"]:
                shutil.copy(held_out / image, into / image)
            yield row


def picture(packages):
    """A scene for README, in the held-out style, and twice as large as those that are learnt."""
    source, canvas = drawings.Source(packages, held_out=True), Image.new("RGB", [2 * side for side in scenes.SIDES["row"]], "white")
    maker = scenes.Maker(source, None, random.Random(0))
    maker.spread = 0
    for place, name in SHOWN.items():
        drawing = drawings.fitted(drawings.read(source.drawings(name)[0]), 148)
        maker.paste(canvas, drawing, *scenes.MIDDLES[place], 0)
    return canvas


def new_thing(packages, folder):
    """Pictures of a thing that has no name yet, with as many of known ones; and others that are drawn in another style."""
    (folder / "images").mkdir(parents=True)
    for split, count in (("train", NEW_ROWS), ("test", NEW_TESTS)):
        source = drawings.Source(packages, held_out=split == "test", without=drawings.SHARE_ALIKE)
        made = []
        for at in range(2 * count):
            maker = scenes.Maker(source, None, random.Random(f"{split} {at}"))
            scene = rows.what_row(maker, NEW if at % 2 == 0 else None)
            chosen = rows.turns(scene, maker.rng, 1)
            said = rows.messages(chosen, 1)
            row = {"images": rows.save(scene.images, folder, f"{split}-{at}"), "messages": said}
            if split == "test":
                row = {"category": NEW if at % 2 == 0 else "known", **row, "messages": said[:1], "answer": chosen[0][2]}
            made.append(row)
        rows.write(folder / f"{split}.jsonl", made)
