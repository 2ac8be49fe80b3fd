"""Writes the rows that the model learns and those that it is measured with."""
import json
import random
import re
from functools import lru_cache
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

from PIL import Image

import drawings
import scenes
from scenes import Maker

SHORTER = (re.compile(r"What is ((?:at|on) the .*)"), re.compile(r"Where is (the .*)"))
QUALITY = 90
HAMLET = Path(__file__).parent.parent / "hamlet.txt"


@lru_cache
def words(held_out):
    """Short words of *Hamlet*; one of five is held out."""
    found = sorted(set(re.findall(r"\b[a-z]{2,4}\b", HAMLET.read_text().lower())))
    random.Random("words").shuffle(found)
    few = [word.upper() for at, word in enumerate(found) if (at % 5 == 0) == held_out]

    def word(rng):
        # Letters without a sense teach to read letter by letter.
        if not held_out and rng.random() < 0.3:
            return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 4)))
        return rng.choice(few)
    return word


def turns(scene, rng, most):
    """Some of the questions as a conversation; one like the last is asked in short now and then."""
    chosen, before = [], None
    for skill, texts, answer in rng.sample(scene.questions, min(most, len(scene.questions))):
        text = rng.choice(texts)
        kind = next((at for at, pattern in enumerate(SHORTER) if pattern.fullmatch(text)), None)
        if kind is not None and kind == before and rng.random() < 0.5:
            text, skill = f"And {SHORTER[kind].fullmatch(text)[1]}", "multi-turn"
        before = kind
        chosen.append((skill, text, answer))
    return chosen


def messages(chosen, images):
    tags = "".join(f"<|image_{at + 1}|>\n" for at in range(images))
    said = [{"role": role, "content": text} for _, *pair in chosen for role, text in zip(("user", "assistant"), pair)]
    said[0]["content"] = tags + said[0]["content"]
    return said


def save(images, folder, name):
    paths = []
    for at, image in enumerate(images):
        path = folder / "images" / f"{name}-{at}.jpg"
        image.save(path, quality=QUALITY)
        paths.append(f"images/{path.name}")
    return paths


def color_row(maker):
    """Which color is where, where a color is, and how many there are: what is seen at once teaches how to look."""
    return maker.colored("grid")


def place_row(maker):
    """The same, in two tiles as well."""
    return maker.colored(maker.rng.choice(list(scenes.PLACES)))


def one_question(scene, maker, skills=None):
    """Of a scene that has several, of which one could tell another's answer; each of the skills as often as it is listed."""
    found = sorted({skill for skill, *_ in scene.questions})
    skill = maker.rng.choice([skill for skill in skills or found if skill in found])
    scene.questions = [maker.rng.choice([question for question in scene.questions if question[0] == skill])]
    return scene


def read_row(maker):
    """What it says."""
    scene = maker.text()
    scene.questions = [question for question in scene.questions if question[0] == "reading"][:1]
    return scene


def what_row(maker, name=None):
    """What one large thing is."""
    scene = maker.single(name)
    scene.questions = scene.questions[:1]
    return scene


def find_row(maker, share=60, every=(1,), whether=True):
    """Of a hundred so many ask where a thing is, and whether another is there, of as many things as are left of all when only
    every so-manyth is taken; the others ask what it is."""
    def found(maker):
        maker.names = maker.names[:: maker.rng.choice(every)]
        scene = maker.found()
        if not whether:
            scene.questions = scene.questions[:1]
        return scene

    return maker.mixed((share, found), (15, Maker.named), (85 - share, what_row))


def seek_row(maker, whether):
    """Where a thing is; a share asks whether one is there instead."""
    scene = maker.found()
    scene.questions = [scene.questions[maker.rng.random() < whether]]
    return scene


def few_row(maker):
    """Nothing but a dozen things. That a word can be looked for is learnt from some thousands of questions after few things,
    and of a hundred things from the start not from many times as many."""
    maker.names = maker.names[::8]
    return maker.mixed((5, place_row), (95, find_row))


def fewer_row(maker):
    """Nothing but seven."""
    maker.names = maker.names[::16]
    return maker.mixed((5, place_row), (95, lambda maker: find_row(maker, 73)))


def again_row(maker):
    """Where one of seven is, which was forgotten over the names of all."""
    return find_row(maker, 65, (16,))


def wide_row(maker):
    """Where one of seven, of thirteen, of more is: what can be found already holds what is new."""
    return find_row(maker, 62, (16, 8, 4, 1), whether=False)


def wider_row(maker):
    """The same, half of it of all things."""
    return find_row(maker, 62, (16, 4, 1, 1), whether=False)


def name_row(maker):
    """Mostly what one thing is, or each of two, and where; and a few of all others, so that nothing is new when they are asked
    more."""
    def other(maker):
        return one_question(maker.rng.choice((maker.text, maker.several, maker.several, maker.count, maker.pair))(), maker)

    return maker.mixed((34, what_row), (12, Maker.named), (34, find_row), (4, place_row), (9, read_row), (7, other))


def look_row(maker):
    """One question, mostly one that only a look at places, or at several things, can answer."""
    scene = maker.rng.choice((maker.several, maker.several, maker.several, maker.count, maker.pair))()
    return one_question(scene, maker, ("position", "position", "presence", "counting", "comparison", "color"))


def some_row(maker):
    """Some of the questions of any scene."""
    scene = maker.scene()
    scene.questions = maker.rng.sample(scene.questions, min(maker.rng.randint(1, 3), len(scene.questions)))
    return scene


def any_row(maker):
    """Whatever can be asked about whatever scene; what it says, and where what is, the most."""
    return maker.mixed((15, lambda maker: seek_row(maker, 0.4)), (5, place_row), (22, name_row), (12, read_row), (24, look_row),
                       (8, lambda maker: one_question(maker.scene(), maker)), (14, some_row))


def talk_row(maker):
    """Two or three questions of a kind, so that later ones can be short."""
    scene, starts = maker.several(), maker.rng.choice((("Where is ",), ("What is at ", "What is on ")))
    alike = [(skill, texts[:1], answer) for skill, texts, answer in scene.questions if texts[0].startswith(starts)]
    scene.questions = maker.rng.sample(alike, min(len(alike), maker.rng.randint(2, 3)))
    return scene


def last_row(maker):
    """What is still the weakest."""
    def where_row(maker):
        return one_question(maker.several(), maker, ("position", "position", "presence"))

    return maker.mixed((36, any_row), (19, talk_row), (26, lambda maker: seek_row(maker, 0.6)), (19, where_row))


def asked(job):
    """A scene of a kind, and a conversation about it."""
    kind, index, seed, source = job
    rng = random.Random(f"{kind.__name__} {seed} {index}")
    scene = kind(Maker(source, words(source.held_out), rng))
    return scene, turns(scene, rng, 10)


def training_row(job):
    *job, folder = job
    scene, chosen = asked(job)
    return {"images": save(scene.images, folder, job[1]), "messages": messages(chosen, len(scene.images))}


def easy_rows(package, split, folder):
    """Easy-VQA's pictures with their questions, in random order."""
    questions = {}
    for text, answer, image in json.loads((package / split / "questions.json").read_text()):
        questions.setdefault(image, []).append(("easy-vqa", text, answer))
    for image, posed in questions.items():
        random.Random(image).shuffle(posed)
        path = f"images/easy-{split}-{image}.png"
        Image.open(package / split / "images" / f"{image}.png").convert("RGB").save(folder / path)
        yield path, posed


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def training(kind, packages, folder, count, held_back, seed=0):
    """So many rows of a kind, and a few of them that training is watched with."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    source = drawings.Source(packages, held_out=False, without=() if kind in (any_row, last_row) else (drawings.PHOTOS,))
    jobs = [(kind, index, seed, source, folder) for index in range(count)]
    with Pool() as pool:
        rows = pool.map(training_row, jobs, chunksize=50)
    if kind is any_row:
        for path, chosen in islice(easy_rows(packages / "easy-vqa-1.0/easy_vqa/data", "train", folder), count // 20):
            rows.append({"images": [path], "messages": messages(chosen[:5], 1)})
    random.Random(seed).shuffle(rows)
    write(folder / "train.jsonl", rows[:-held_back])
    write(folder / "valid.jsonl", rows[-held_back:])


def said(job):
    return [text for _, *pair in asked(job)[1] for text in pair]


def texts(packages, count=4000, seed=0):
    """What is said about scenes, but what is to be read letter by letter."""
    source = drawings.Source(packages, held_out=False)
    with Pool() as pool:
        found = pool.map(said, [(any_row, index, seed, source) for index in range(count)], chunksize=50)
    return [text for texts in found for text in texts if not (text.isupper() or text.isdigit())]


# Held-out questions of each skill, and which scenes have them.
ASKED = {
    "naming": (2 * len(drawings.objects()), ("single", "several")), "color": (200, ("single", "several", "text")),
    "counting": (200, ("count", "several")), "position": (200, ("several",)), "presence": (200, ("single", "several")),
    "reading": (200, ("text",)), "comparison": (200, ("pair",)), "multi-turn": (200, ("several",)),
}
EASY = 300


def testing_row(job):
    skill, index, seed, source, folder = job
    rng = random.Random(f"{seed} {skill} {index}")
    maker = Maker(source, words(source.held_out), rng)
    while True:
        scene = getattr(maker, rng.choice(ASKED[skill][1]))()
        for _ in range(20):
            chosen = turns(scene, rng, 6)
            found = [at for at, (asked, _, _) in enumerate(chosen) if asked == skill]
            if skill == "naming":  # Shapes are easier than drawn things.
                found = [at for at in found if chosen[at][2] not in drawings.SHAPES]
            if found:
                at = rng.choice(found)
                before = chosen[:at] if skill == "multi-turn" else []
                said = messages(before + [chosen[at]], len(scene.images))[:-1]
                images = save(scene.images, folder, f"test-{skill}-{index}")
                return {"category": skill, "images": images, "messages": said, "answer": chosen[at][2]}


def testing(packages, folder, seed="test"):
    """One question of a picture, drawn in the style that was held out; and the same with pictures of other rows."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    source = drawings.Source(packages, held_out=True)
    jobs = [(skill, index, seed, source, folder) for skill, (count, _) in ASKED.items() for index in range(count)]
    with Pool() as pool:
        rows = pool.map(testing_row, jobs, chunksize=50)
    for path, asked in islice(easy_rows(packages / "easy-vqa-1.0/easy_vqa/data", "test", folder), EASY):
        rows.append({"category": "easy-vqa", "images": [path], "messages": messages(asked[:1], 1)[:-1], "answer": asked[0][2]})
    write(folder / "test.jsonl", rows)
    others = []
    for skill in dict.fromkeys(row["category"] for row in rows):
        alike = [row for row in rows if row["category"] == skill]
        # Half the rows further, the picture has nothing to do with the question.
        others += [{**row, "images": alike[(at + len(alike) // 2) % len(alike)]["images"]} for at, row in enumerate(alike)]
    write(folder / "test-other-pictures.jsonl", others)
