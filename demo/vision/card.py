"""Measures the model with phi3v and writes its card."""
import json
import re
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import drawings
import fetch
import scenes

# What is measured: the model's folder, the rows, and what the card calls it.
MEASURED = {
    "bfloat16": ("model", "test.jsonl"),
    "8 bits": ("model-8bit", "test.jsonl"),
    "4 bits": ("model-4bit", "test.jsonl"),
    "another picture": ("model", "test-other-pictures.jsonl"),
}
SKILLS = {
    "naming": "which of {} things it is, alone or at a place of a scene",
    "color": "of 12, of a shape, a text or the background",
    "counting": "1 to 4 of a thing or of all; or of which of two there are more",
    "position": "left, right, above, below; or the place in the picture",
    "presence": "whether a thing is there",
    "reading": "words and numbers that were not among the training's, in a font that was not; or which of both it is",
    "comparison": "of two pictures",
    "multi-turn": "a short second question, such as “And on the right?”",
    "easy-vqa": "[easy-VQA](https://github.com/vzhou842/easy-VQA)'s own test pictures, one question each",
}


def measure(phi3v, out):
    results = out / "results"
    results.mkdir(exist_ok=True)
    for name, (model, rows) in MEASURED.items():
        path = results / f"{name}.json"
        if path.exists():
            continue
        command = [phi3v, "eval", "vqa", "--model", out / model, "--data", out / "held-out" / rows, "--max-tokens", "8", "--metric", "exact",
                   "-o", results / f"{name}.jsonl", "--force", "--json"]
        print("+", *command, flush=True)
        done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
        path.write_text(done.stdout)


def figures(out):
    """By name and skill: the share that is right, and its 95 % interval."""
    def read(name):
        groups = json.loads((out / "results" / f"{name}.json").read_text())["groups"]
        return {group["name"]: group["figure"] for group in groups}
    return {name: read(name) for name in MEASURED}


def guessed(out):
    """By skill: the share that is right where a question has the most common answer of all others like it, without a look."""
    things = sorted([*drawings.objects(), *map(scenes.plural, drawings.objects()), *drawings.SHAPES, *scenes.MIDDLES], key=len, reverse=True)
    thing = re.compile(rf"\b(an? )?({'|'.join(things)})\b")
    rows = [json.loads(line) for line in (out / "held-out/test.jsonl").read_text().splitlines()]
    kinds = [(row["category"], thing.sub("…", row["messages"][-1]["content"])) for row in rows]
    answers, right = defaultdict(Counter), defaultdict(list)
    for kind, row in zip(kinds, rows):
        answers[kind][row["answer"]] += 1
    for kind, row in zip(kinds, rows):
        others = answers[kind] - Counter([row["answer"]])
        right[kind[0]].append(others[row["answer"]] == max(others.values(), default=-1))
    return {skill: sum(found) / len(found) for skill, found in right.items()}


def table(measured, guesses):
    lines = ["| skill | rows | right | 8 bits | 4 bits | with another picture | by guessing |", "|---|---|---|---|---|---|---|"]
    percent = lambda value: f"{100 * value:.1f} %"
    for skill, what in SKILLS.items():
        figure = measured["bfloat16"][skill]
        low, high = figure["interval"]
        others = [percent(measured[name][skill]["value"]) for name in MEASURED if name != "bfloat16"]
        what = what.format(len(drawings.objects()))
        lines.append(f"| **{skill}**: {what} | {figure['rows']} | **{percent(figure['value'])}** ({100 * low:.1f} to {100 * high:.1f}) | " + " | ".join([*others, percent(guesses[skill])]) + " |")
    return "\n".join(lines)


def sources():
    line = "| {what} | `{name}` {version} ({index}) | {license} |"
    rows = [line.format(**{"index": "npm", **package}) for package in fetch.PACKAGES]
    return "\n".join(["| what | package | licence |", "|---|---|---|", *rows])


def write(out):
    template = (Path(__file__).parent / "card.md").read_text()
    names = ", ".join(sorted(drawings.objects()))
    # Two bytes each, and a header.
    parameters = (out / "model/model.safetensors").stat().st_size / 2
    filled = {"TABLE": table(figures(out), guessed(out)), "SOURCES": sources(), "NAMES": names, "PARAMETERS": f"{parameters / 1e6:.1f} million"}
    for key, value in filled.items():
        template = template.replace(f"{{{key}}}", value)
    (out / "model/README.md").write_text(template)
    print(filled["TABLE"])
