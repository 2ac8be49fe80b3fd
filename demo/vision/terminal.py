"""Draws a terminal in which phi3v is asked about a picture: what stands in it was really answered."""
import base64
import subprocess
from html import escape

QUESTIONS = ["What is on the left?", "And on the right?", "Where is the balloon?", "How many things are there?"]
WIDTH, LINE, PICTURE = 860, 22, (300, 150)


def draw(phi3v, root, picture):
    shown = picture.relative_to(root)
    command = [phi3v, "chat", "--model", "demo", "--image", picture, "--quiet"]
    said = subprocess.run([str(part) for part in command], input="\n".join(QUESTIONS) + "\n", text=True, check=True, stdout=subprocess.PIPE)
    lines = [("#9cdcfe", f"$ phi3v chat --model demo --image {shown}")]
    for question, answer in zip(QUESTIONS, said.stdout.splitlines(), strict=True):
        lines += [("#8fbc8f", f"> {question}"), ("#ffffff", answer)]
    height = max(len(lines) * LINE, PICTURE[1]) + 40
    text = "\n".join(f'<text x="24" y="{38 + LINE * at}" fill="{color}">{escape(line)}</text>' for at, (color, line) in enumerate(lines))
    data = base64.b64encode(picture.read_bytes()).decode()
    picture.with_suffix(".svg").write_text(f"""<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="15">
<rect width="100%" height="100%" rx="8" fill="#1e1e2e"/>
{text}
<image x="{WIDTH - PICTURE[0] - 20}" y="20" width="{PICTURE[0]}" height="{PICTURE[1]}" href="data:image/png;base64,{data}"/>
</svg>
""")
