"""Makes train.jsonl, valid.jsonl and test.jsonl beside this file: what kind of thing a name stands for.

Names and groups are those of Unicode's emoji, as in the npm package emojibase-data 17.0.0 (MIT; names from the Unicode CLDR):
    npm pack emojibase-data@17.0.0 && tar xzf emojibase-data-17.0.0.tgz && python3 make.py package
"""
import json
import random
import sys
from pathlib import Path

KINDS = {
    "animal": ["animal-mammal", "animal-bird", "animal-amphibian", "animal-reptile", "animal-marine", "animal-bug"],
    "food": ["food-fruit", "food-vegetable", "food-prepared", "food-asian", "food-sweet"],
    "vehicle": ["transport-ground", "transport-water", "transport-air"],
    "clothing": ["clothing"],
}
# In these groups, but of another kind.
OTHERS = set("""pig nose|feather|wing|spider web|microbe|spiral shell|coral|phoenix|station|bus stop|motorway|railway track|
oil drum|fuel pump|wheel|police car light|horizontal traffic light|vertical traffic light|stop sign|construction|anchor|
ring buoy|seat|parachute|suspension railway|airplane departure|airplane arrival|satellite|folding hand fan|hair pick|
prayer beads|lipstick|ring|gem stone|shopping bags|goggles|cooking|takeout box|cricket|lime""".replace("\n", "").split("|"))
QUESTION = "Is this an animal, food, a vehicle or clothing: {}?"


def main(package):
    emoji = json.loads((package / "en/data.json").read_text())
    names = json.loads((package / "meta/groups.json").read_text())["subgroups"]
    kind_of = {group: kind for kind, groups in KINDS.items() for group in groups}
    rows = {kind: [] for kind in KINDS}
    for entry in emoji:
        kind = kind_of.get(names.get(str(entry.get("subgroup"))))
        if kind and entry["label"] not in OTHERS:
            rows[kind].append({"prompt": QUESTION.format(entry["label"]), "completion": kind})
    random.seed(0)
    splits = {"test": [], "valid": [], "train": []}
    for kind in rows.values():
        random.shuffle(kind)
        # As many of each kind are held out, so that a guess is right in one of four cases.
        splits["test"] += kind[:14]
        splits["valid"] += kind[14:18]
        splits["train"] += kind[18:]
    for split, chosen in splits.items():
        random.shuffle(chosen)
        path = Path(__file__).parent / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen))
        print(split, len(chosen))


main(Path(sys.argv[1]))
