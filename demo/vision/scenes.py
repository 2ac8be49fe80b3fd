"""Pictures with questions and answers: what a scene shows is known, as it is made here."""
from dataclasses import dataclass, field

from PIL import Image

import drawings
from drawings import COLORS, SHAPES

# Half of a tile's, in which nothing is lost: most drawings come with 64 pixels.
SIDE = 168
PLACES = {
    "row": ["left", "right"], "column": ["top", "bottom"],
    "grid": ["top left", "top right", "bottom left", "bottom right"],
}
# Cut into up to two tiles, each place of two becomes one, and four places are one together.
SIDES = {"row": (SIDE, SIDE // 2), "column": (SIDE // 2, SIDE), "grid": (SIDE, SIDE)}
# The middle of each place, as shares of the canvas.
MIDDLES = {
    "left": (0.26, 0.5), "right": (0.74, 0.5), "top": (0.5, 0.26), "bottom": (0.5, 0.74),
    "top left": (0.26, 0.26), "top right": (0.74, 0.26), "bottom left": (0.26, 0.74), "bottom right": (0.74, 0.74),
}
# Background and ink of what is printed.
PRINTS = (("white", "black"), ("yellow", "black"), ("black", "white"), ("blue", "white"), ("white", "red"), ("white", "blue"),
          ("red", "white"), ("green", "white"), (None, "black"))
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
# Names that are spelled the same for one and for several, and the plurals of others that are not made by rule.
EVEN = ("fries", "glasses", "grapes", "jeans", "lightning", "scissors", "spaghetti", "sunglasses", "sushi")
IRREGULAR = {**{name: name for name in EVEN}, "avocado": "avocados", "leaf": "leaves", "piano": "pianos"}


def plural(name):
    if name in IRREGULAR:
        return IRREGULAR[name]
    if name.endswith("y") and name[-2] not in "aeou":
        return name[:-1] + "ies"
    return name + ("es" if name.endswith(("s", "x", "ch", "sh", "o")) else "s")


def at(place):
    """With its preposition."""
    return f"on the {place}" if place in ("left", "right") else f"at the {place}"


def a(name):
    """With its article."""
    return name if name in EVEN else f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


@dataclass
class Scene:
    """Pictures, and what can be asked about them."""
    images: list
    questions: list = field(default_factory=list)

    def ask(self, skill, answer, *texts):
        self.questions.append((skill, texts, str(answer)))

    def ask_whether(self, name, there):
        texts = "Is there {}?", "Do you see {}?", "Does the picture show {}?"
        self.ask("presence", "yes" if there else "no", *(text.format(a(name)) for text in texts))

    def ask_what(self, name, place):
        self.ask("naming", name, f"What is {at(place)}?", f"What do you see {at(place)}?")

    def ask_where(self, name, place):
        self.ask("position", place, f"Where is the {name}?", f"At which place is the {name}?")

    def ask_color(self, name, place, color):
        self.ask("color", color, f"What color is the {name}?", f"What color is {at(place)}?")


class Maker:
    """Makes scenes from a source of drawings and a source of random numbers."""

    def __init__(self, source, words, rng):
        self.source, self.words, self.rng = source, words, rng
        self.names = list(drawings.objects())
        # Sizes, places and backgrounds differ a little in some pictures and much in others: what is learnt from easy ones
        # helps with hard ones, of which alone next to nothing is learnt.
        self.spread = rng.uniform(0, 0.6)

    def canvas(self, color=None, kind="grid"):
        plain = color is None and self.rng.random() > self.spread
        return drawings.background("white" if plain else color, *SIDES[kind], self.rng)

    def drawn(self, name, size):
        return drawings.drawn(self.source, name, size, self.rng)

    def paste(self, canvas, drawing, x, y, off):
        """Puts a drawing so that its middle is at most so far from a place, and it within the canvas; all are shares of it."""
        def start(middle, side, length):
            middle = side * (middle + self.spread * self.rng.uniform(-off, off))
            return min(max(0, round(middle - length / 2)), max(0, side - length))

        left = start(x, canvas.width, drawing.width)
        top = start(y, canvas.height, drawing.height)
        canvas.paste(drawing, (left, top), drawing)

    def size(self, least, most):
        return round(most - self.spread * self.rng.uniform(0, most - least))

    def single(self, name=None):
        """One thing, large."""
        rng, name = self.rng, name or self.rng.choice(self.names)
        color = rng.choice(list(COLORS)) if rng.random() < 0.25 else None
        canvas = self.canvas(color)
        drawing, own = self.drawn(name, self.size(100, 164))
        self.paste(canvas, drawing, 0.5, 0.5, 0.1)
        scene = Scene([canvas])
        scene.ask("naming", name, "What is this?", "What is in the picture?", "What do you see?")
        if color:
            scene.ask("color", color, "What color is the background?", "Which color is behind it?")
        if own:
            scene.ask("color", own, f"What color is the {name}?", "What color is it?")
        self.exists(scene, [name])
        return scene

    def colored(self, kind):
        """Colors at some of two or four places. Easy ones fill their halves or quarters, hard ones are shapes."""
        rng = self.rng
        # One alone teaches to say a place; which of several is meant can be learnt then.
        places = rng.sample(PLACES[kind], rng.randint(1, len(PLACES[kind])))
        colors = dict(zip(places, rng.sample(drawings.INKS, len(places))))
        if counted := rng.random() < 0.25:
            colors = {place: rng.choice(list(colors.values())) for place in places}
        canvas = self.canvas(kind=kind)
        for place, color in colors.items():
            side = round(SIDE / 2 * (1 - self.spread * rng.uniform(0, 0.4)))
            if rng.random() < self.spread:
                drawing = drawings.shape(rng.choice(SHAPES), color, side, rng)
            else:
                drawing = Image.new("RGBA", (side, side), drawings.near(color, rng) + (255,))
            self.paste(canvas, drawing, *MIDDLES[place], 0.05)
        scene = Scene([canvas])
        if counted:
            found = list(colors.values())
            color = rng.choice(found)
            scene.ask("counting", found.count(color), f"How many {color} ones are there?", f"Count the {color} ones.")
            return scene
        # Each is asked about once, as a second answer could be told from the first, and no look at the picture is learnt.
        for place, color in colors.items():
            if rng.random() < 0.5:
                scene.ask("position", place, f"Where is the {color} one?", f"At which place is the {color} one?")
            else:
                scene.ask("color", color, f"What color is {at(place)}?")
        return scene

    def shaped(self):
        """Shapes at some of four places. Each is asked about once."""
        rng = self.rng
        places = rng.sample(PLACES["grid"], rng.randint(1, len(SHAPES)))
        scene = Scene([self.canvas()])
        for name, place in zip(rng.sample(SHAPES, len(places)), places):
            color = rng.choice(drawings.INKS)
            self.paste(scene.images[0], drawings.shape(name, color, self.size(52, 80), rng), *MIDDLES[place], 0.05)
            kind = rng.randrange(3)
            if kind == 0:
                scene.ask_where(name, place)
            elif kind == 1:
                scene.ask_what(name, place)
            else:
                scene.ask_color(name, place, color)
        return scene

    def two(self):
        """A drawing at each of two places, and who stands where."""
        kind = self.rng.choice(("row", "column"))
        where = dict(zip(self.rng.sample(self.names, 2), PLACES[kind]))
        canvas = self.canvas(kind=kind)
        for name, place in where.items():
            self.paste(canvas, self.drawn(name, self.size(52, 80))[0], *MIDDLES[place], 0.05)
        return Scene([canvas]), where

    def named(self):
        """Two things: what they are."""
        scene, where = self.two()
        for name, place in where.items():
            scene.ask_what(name, place)
        return scene

    def found(self):
        """Two things: where the one is, and whether the other is there, or something else is. Neither tells the other's answer."""
        scene, where = self.two()
        first, second = self.rng.sample(list(where), 2)
        scene.ask_where(first, where[first])
        if self.rng.random() < 0.5:
            scene.ask_whether(second, True)
        else:
            scene.ask_whether(self.other(where), False)
        return scene

    def beside(self):
        """Two things: which side of the other the one is on, or what is there."""
        scene, where = self.two()
        self.sides(scene, where)
        return scene

    def other(self, names):
        """The name of something else."""
        return self.rng.choice([name for name in self.names if name not in names])

    def exists(self, scene, names):
        scene.ask_whether(self.rng.choice(names), True)
        scene.ask_whether(self.other(names), False)

    def several(self):
        """Two things that have a tile each, drawings or shapes of one color; or two or three shapes at four places."""
        rng = self.rng
        kind = rng.choice(["row", "column", "row", "column", "grid"])
        places = list(PLACES[kind])
        if kind == "grid":
            places = rng.sample(places, rng.choice((2, 3)))
        shapes = rng.sample(SHAPES, len(places) if kind == "grid" else rng.choice((0, 0, 0, 1, 2)))
        names = shapes + rng.sample(self.names, len(places) - len(shapes))
        rng.shuffle(names)
        color = rng.choice(list(COLORS)) if rng.random() < 0.25 else None
        canvas, colors = self.canvas(color, kind), {}
        for name, place in zip(names, places):
            size = self.size(52, 80)
            if name in SHAPES:
                colors[name] = rng.choice([other for other in COLORS if other != color and (color or other != "white")])
                drawing = drawings.shape(name, colors[name], size, rng)
            else:
                drawing, colors[name] = self.drawn(name, size)
            self.paste(canvas, drawing, *MIDDLES[place], 0.05)
        scene = Scene([canvas])
        where = dict(zip(names, places))
        self.places(scene, where)
        for name, own in colors.items():
            if own:
                scene.ask_color(name, where[name], own)
        if color:
            scene.ask("color", color, "What color is the background?")
        scene.ask("counting", len(names), "How many things are there?", "How many things do you see?")
        self.exists(scene, names)
        return scene

    def places(self, scene, where):
        """Questions about who stands where."""
        for name, place in where.items():
            scene.ask_what(name, place)
            scene.ask_where(name, place)
        self.sides(scene, where)

    def sides(self, scene, where):
        """Questions about which side of another a thing is on, for all that stand in line."""
        for first, here in where.items():
            for second, there in where.items():
                (x1, y1), (x2, y2) = MIDDLES[here], MIDDLES[there]
                if x1 != x2 and y1 == y2:
                    side = "left" if x1 < x2 else "right"
                    scene.ask("position", side, f"Is the {first} left or right of the {second}?")
                    scene.ask("naming", first, f"What is {side} of the {second}?")
                if y1 != y2 and x1 == x2:
                    side = "above" if y1 < y2 else "below"
                    scene.ask("position", side, f"Is the {first} above or below the {second}?")
                    scene.ask("naming", first, f"What is {side} the {second}?")

    def count(self, things=0.5):
        """One to four of a thing, as often as that; or that many shapes, of which there may be two."""
        rng = self.rng
        many = rng.randint(1, 4)
        if rng.random() < things:
            counts = {rng.choice(self.names): many}
        else:
            first, second = rng.sample(SHAPES, 2)
            counts = {first: many, second: rng.randint(0, 4 - many)}
        places = rng.sample(PLACES["grid"], sum(counts.values()))
        canvas = self.canvas()
        for name, count in counts.items():
            color = rng.choice(drawings.INKS)
            file = name not in SHAPES and rng.choice(self.source.drawings(name))
            for _ in range(count):
                size = self.size(52, 80)
                drawing = drawings.slightly(drawings.fitted(drawings.read(file), size), rng) if file else drawings.shape(name, color, size, rng)
                self.paste(canvas, drawing, *MIDDLES[places.pop()], 0.05)
        scene = Scene([canvas])
        for name, count in counts.items():
            if count:
                scene.ask("counting", count, f"How many {plural(name)} are there?", f"Count the {plural(name)}.")
        scene.ask("counting", sum(counts.values()), "How many things are there?", "How many things do you see?")
        if len(set(counts.values())) > 1:
            scene.ask("counting", plural(max(counts, key=counts.get)), f"Are there more {' or '.join(map(plural, counts))}?")
        return scene

    def write(self, canvas, text, ink, places):
        """Prints a text at places, which are counted in patches. Its letters are as far from each other as patches are, and
        about in their middles."""
        cell = min(canvas.size) // 4
        written = drawings.written(self.source, text, cell, drawings.near(ink, self.rng), self.rng)
        shake = lambda: round(self.spread * self.rng.uniform(-0.1, 0.1) * cell)
        for x, y in places:
            canvas.paste(written, (cell * x + shake(), cell * y + shake()), written)

    def repeated(self, text, places):
        """A text at some of these places, often at many of them, so that it is hard to miss."""
        color, ink = self.rng.choice(PRINTS)
        canvas, share = self.canvas(color), self.rng.random() ** 0.5
        some = [place for place in places if self.rng.random() < share] or [self.rng.choice(places)]
        self.write(canvas, text, ink, some)
        scene = Scene([canvas])
        scene.ask("reading", text, "What does it say?")
        return scene

    def letter(self):
        """The same letter or digit at some of sixteen places."""
        return self.repeated(self.rng.choice(LETTERS + DIGITS), [(x, y) for x in range(4) for y in range(4)])

    def lines(self, lengths=(1, 2, 2, 2, 3, 3, 4, 4)):
        """The same letters or digits, as many as one of the lengths says, on some of four lines."""
        length, digits = self.rng.choice(lengths), self.rng.random() < 0.4
        text = "".join(self.rng.choices(DIGITS if digits else LETTERS, k=min(length, 3) if digits else length))
        return self.repeated(text, [(0, y) for y in range(4)])

    def text(self):
        """A word or a number of up to four letters, alone or with a thing at the other place."""
        rng = self.rng
        number = rng.random() < 0.45
        text = str(rng.choice((rng.randrange(10), rng.randrange(100), rng.randrange(1000)))) if number else self.words(rng)
        color, ink = rng.choice(PRINTS)
        kind = rng.choice(("row", "column", "grid", "grid"))
        canvas = self.canvas(color, kind)
        here, there = rng.sample(PLACES[kind], 2) if kind != "grid" else (None, None)
        self.write(canvas, text, ink, [(4 * (here == "right"), 4 * (here == "bottom") + rng.randint(1, 2))])
        scene = Scene([canvas])
        if here and rng.random() < 0.5:
            name = rng.choice(self.names)
            self.paste(canvas, self.drawn(name, self.size(52, 80))[0], *MIDDLES[there], 0.05)
            scene.ask("naming", name, f"What is {at(there)}?", "Which thing do you see?")
        what = "number" if number else "word"
        scene.ask("reading", text, "What does it say?", f"Read the {what}.", f"What is the {what}?")
        scene.ask("reading", what, "Is this a word or a number?")
        if here:
            scene.ask("position", here, "Where is the text?")
        if color:
            scene.ask("color", color, "What color is the background?")
        scene.ask("color", ink, "What color is the text?")
        return scene

    def pair(self, twins=0):
        """Two pictures. Of those that show the same thing, this share is the same picture twice, which is easier."""
        rng = self.rng
        first, second = rng.sample(self.names, 2)
        if rng.random() < 0.5:
            second = first
        canvases = []
        for name in (first, second):
            canvas = self.canvas()
            self.paste(canvas, self.drawn(name, self.size(100, 164))[0], 0.5, 0.5, 0.1)
            canvases.append(canvas)
        if twins and first == second and rng.random() < twins:
            canvases[1] = canvases[0]
        scene = Scene(canvases)
        same = "yes" if first == second else "no"
        scene.ask("comparison", same, "Do both pictures show the same thing?", "Is it the same thing in both pictures?")
        scene.ask("naming", first, "What is in the first picture?", "What does the first picture show?")
        scene.ask("naming", second, "What is in the second picture?", "What does the second picture show?")
        if first != second:
            for name, place in ((first, "first"), (second, "second")):
                scene.ask("comparison", place, f"Which picture shows {a(name)}?", f"In which picture is {a(name)}?")
        return scene

    def mixed(self, *shares):
        """A scene of one of several kinds, which come with their shares and are functions of the maker."""
        weights, kinds = zip(*shares)
        return self.rng.choices(kinds, weights)[0](self)
