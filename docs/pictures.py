"""Make the pictures of the README and of the first page: ``python docs/pictures.py`` writes docs/images.

The seed is that of the sheet's first picture, which is this one.
"""

from pathlib import Path

import diffuscope as ds
from diffuscope.evaluate.contact_sheet import contact_sheet
from diffuscope.lens.animation import frames
from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.lens.recording import snapshots

PROMPT, SEED = "a red fox", 32
PAIR = "a red apple and a green pear side by side"
WORDS = ("red", "apple", "green", "pear")
"""Of ``PAIR``, whose words lie in different places."""
SHOWN = (0, 2, 4)
"""Steps whose clean estimate the strip shows, between the noise and the picture."""

FEW = (
    "a red fox",
    "two green cars",
    "a blue house on a yellow background",
    "a pizza, game icon style",
    "a rocket on a black background",
    "a flamingo",
)
"""One seed each, counted on from ``SEED``: the same for the model and its student."""

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    pipe = ds.load("emoji")
    run = pipe.steps(PROMPT, seed=SEED)
    steps = snapshots(run)
    picture = run.result().images[0]
    noisy = pipe.decode(steps[0].x)[0]
    estimates = [pipe.decode(steps[k].x0)[0] for k in SHOWN]
    titles = ["noise", *(f"estimate in step {k + 1}" for k in SHOWN)]
    strip = contact_sheet([noisy, *estimates, picture], [*titles, "the picture"], 5)
    strip.save(IMAGES / "steps.jpg", quality=85, optimize=True)
    heat = AttentionCapture()
    pair = pipe(PAIR, seed=SEED, tap=heat).images[0]
    maps = heat.maps(pipe.tokenizer)
    overlays = [maps.overlay(word, pair) for word in WORDS]
    contact_sheet([pair, *overlays], [PAIR, *WORDS], 5).save(
        IMAGES / "words.jpg", quality=85, optimize=True
    )
    seeds = [SEED + i for i in range(len(FEW))]
    student = ds.load("emoji-turbo")
    rows = [
        ("emoji, 24 network calls", pipe, pipe.config.preset.num_inference_steps),
        ("emoji-turbo, 4 calls", student, student.config.preset.num_inference_steps),
        ("emoji-turbo, 1 call", student, 1),
    ]
    made = [
        model(list(FEW), seed=seeds, num_inference_steps=n).images
        for _, model, n in rows
    ]
    few = [image for row in made for image in row]
    titles = [
        f"{name}: {text}" if i == 0 else text
        for name, *_ in rows
        for i, text in enumerate(FEW)
    ]
    contact_sheet(few, titles, len(FEW)).save(
        IMAGES / "turbo.jpg", quality=85, optimize=True
    )
    first, *others = frames(pipe, steps)
    durations = [250] * (len(steps) - 1) + [2500]  # milliseconds
    first.save(
        IMAGES / "fox.webp",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        quality=75,
        method=6,
    )


if __name__ == "__main__":
    main()
