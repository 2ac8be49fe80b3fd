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


def letters(rng, least):
    """So many letters without a sense, or up to four: they teach to read letter by letter."""
    return "".join(rng.choices(scenes.LETTERS, k=rng.randint(least, 4)))


@lru_cache
def words(held_out):
    """Short words of *Hamlet*; one of five is held out."""
    found = sorted(set(re.findall(r"\b[a-z]{2,4}\b", HAMLET.read_text().lower())))
    random.Random("words").shuffle(found)
    few = [word.upper() for at, word in enumerate(found) if (at % 5 == 0) == held_out]

    def word(rng):
        if not held_out and rng.random() < 0.3:
            return letters(rng, 2)
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


def question_of(scene, maker, skill):
    return maker.rng.choice([question for question in scene.questions if question[0] == skill])


def one_question(scene, maker, skills=None):
    """Of a scene that has several, of which one could tell another's answer; each of the skills as often as it is listed."""
    found = sorted({skill for skill, *_ in scene.questions})
    skill = maker.rng.choice([skill for skill in skills or found if skill in found] or found)
    scene.questions = [question_of(scene, maker, skill)]
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


def spelled_row(maker):
    """One to four letters without a sense, or a number."""
    maker.words = lambda rng: letters(rng, 1)
    return read_row(maker)


def beside_row(maker):
    """On which side of another a thing is, or what is there."""
    return one_question(maker.beside(), maker, ("position", "position", "position", "naming"))


def pair_row(maker, twins=0):
    """Which of two pictures shows a thing; or whether they show the same thing, and what one of them shows."""
    scene = maker.pair(twins)
    same, first, second, *which = scene.questions
    if which and maker.rng.random() < 0.5:
        scene.questions = [maker.rng.choice(which)]
    else:
        scene.questions = [same, maker.rng.choice((first, second))]
    return scene


def of_some(kind, *every):
    """The same of as many things as are left of all when only every so-manyth is taken."""
    def made(maker):
        maker.names = maker.names[:: maker.rng.choice(every)]
        return kind(maker)

    return made


def few_row(maker):
    """Nothing but seven things. That a word can be looked for is learnt from a few thousand questions after few things, and of a
    hundred things from the start not from many times as many."""
    maker.names = maker.names[::16]
    return maker.mixed((15, place_row), (50, Maker.found), (10, beside_row), (10, Maker.named), (15, what_row))


def letter_row(maker):
    """One letter, in many places: in one place alone it is not found in as many rows."""
    return maker.mixed((85, Maker.letter), (15, few_row))


def word_row(maker):
    """The same, and in the place of a text; and texts of several letters, of which next to nothing is learnt yet."""
    return maker.mixed((20, Maker.letter), (55, spelled_row), (25, few_row))


def line_row(maker):
    """Texts of several letters, on many lines."""
    return maker.mixed((65, Maker.lines), (15, spelled_row), (20, few_row))


def twin_row(maker):
    """Two pictures of seven things; many are the same picture twice."""
    pairs = of_some(lambda maker: pair_row(maker, 0.6), 16)
    return maker.mixed((60, pairs), (15, Maker.lines), (10, spelled_row), (15, few_row))


def wide_row(maker):
    """What all things are; and the rest of seven, of thirteen, of more: what is known of few holds what is new."""
    every = 16, 8, 4, 1
    pairs = of_some(lambda maker: pair_row(maker, 0.4), *every)
    return maker.mixed((25, what_row), (8, Maker.named), (30, of_some(Maker.found, *every)), (4, of_some(beside_row, *every)),
                       (11, pairs), (5, Maker.lines), (7, spelled_row), (6, place_row), (4, other_row))


def other_row(maker):
    """One question of what is not asked yet."""
    return one_question(maker.rng.choice((maker.text, maker.several, maker.several, maker.count))(), maker)


def color_of_row(maker):
    """A color, where there is one to ask for."""
    return one_question(maker.rng.choice((maker.single, maker.several, maker.text))(), maker, ("color",))


def count_row(maker):
    """How many of a thing there are, or of all."""
    return one_question(maker.count(), maker)


def both_row(maker):
    """Where one of several things is, or on which side of another; and a color, or whether something is there."""
    scene = maker.several()
    skills = {skill for skill, *_ in scene.questions}
    scene.questions = [question_of(scene, maker, skill) for skill in ("position", "color" if "color" in skills else "presence")]
    return scene


def talk_row(maker):
    """Two or three questions of a kind, so that later ones can be short."""
    scene, starts = maker.several(), maker.rng.choice((("Where is ",), ("What is at ", "What is on ")))
    alike = [(skill, texts[:1], answer) for skill, texts, answer in scene.questions if texts[0].startswith(starts)]
    scene.questions = maker.rng.sample(alike, min(len(alike), maker.rng.randint(2, 3)))
    return scene


def many_row(maker):
    """How many shapes there are."""
    return one_question(maker.count(0), maker)


def shapes_row(maker):
    """Of shapes: where and what they are, of which color, and how many."""
    return maker.mixed((70, Maker.shaped), (30, many_row))


def kind_row(maker):
    """Whether a text is a word or a number."""
    scene = maker.text()
    scene.questions = [question for question in scene.questions if question[2] in ("word", "number")]
    return scene


def long_row(maker):
    """Texts of four letters, on many lines."""
    return maker.lines((3, 4, 4, 4))


def some_row(maker):
    """Two to four questions of any scene: what was asked before is not what is asked now."""
    scene = maker.rng.choice((maker.several, maker.several, maker.several, maker.single, maker.count, maker.text, maker.pair))()
    scene.questions = maker.rng.sample(scene.questions, min(maker.rng.randint(2, 4), len(scene.questions)))
    return scene


def all_row(maker, *every):
    """Whatever can be asked; what has to be looked for, of so many things."""
    few = lambda kind: of_some(kind, *every)
    pairs = few(lambda maker: pair_row(maker, 0.2))
    return maker.mixed((9, what_row), (4, Maker.named), (16, few(Maker.found)), (13, few(beside_row)), (14, few(both_row)), (9, pairs),
                       (7, color_of_row), (5, shapes_row), (5, count_row), (3, read_row), (1, kind_row), (1, long_row), (9, talk_row),
                       (4, few(some_row)))


def turns_row(maker):
    """Everything, of few things and of all by turns, as what is known of few is forgotten over all at once."""
    return all_row(maker, 16, 4, 2, 1, 1)


def one_tile_row(maker):
    """What takes one tile, mostly shapes: among all else they are not learnt."""
    return maker.mixed((60, Maker.shaped), (15, many_row), (5, color_row), (10, what_row), (5, pair_row), (5, Maker.lines))


def last_row(maker):
    """Everything, mostly of all things."""
    return all_row(maker, 4, 1, 1, 1)


# Kinds of rows that are of everything, photos and easy-VQA as well.
MIXED = (turns_row, last_row)


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
    source = drawings.Source(packages, held_out=False, without=() if kind in MIXED else (drawings.PHOTOS,))
    jobs = [(kind, index, seed, source, folder) for index in range(count)]
    with Pool() as pool:
        rows = pool.map(training_row, jobs, chunksize=50)
    rng = random.Random(f"{kind.__name__} {seed}")
    if kind in MIXED:
        for path, posed in islice(easy_rows(packages / "easy-vqa-1.0/easy_vqa/data", "train", folder), count // 15):
            rows += [{"images": [path], "messages": messages([question], 1)} for question in rng.sample(posed, 2)]
    rng.shuffle(rows)
    write(folder / "train.jsonl", rows[:-held_back])
    write(folder / "valid.jsonl", rows[-held_back:])


def said(job):
    return [text for _, *pair in asked(job)[1] for text in pair]


def texts(packages, count=4000, seed=0):
    """What is said about scenes, but what is to be read letter by letter."""
    source = drawings.Source(packages, held_out=False)
    with Pool() as pool:
        found = pool.map(said, [(last_row, index, seed, source) for index in range(count)], chunksize=50)
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
