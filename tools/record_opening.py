"""Record the picture with which the lab opens: ``python tools/record_opening.py`` writes src/diffuscope/lab/opening.

The prompt and the seed are those of the README's picture.
"""

import json
import zlib
from pathlib import Path

import numpy as np

import diffuscope as ds
from diffuscope.lens.recording import snapshots
from diffuscope.serve.http.about import latent_rgb

PROMPT, SEED = "a red fox", 32
OPENING = Path(__file__).parents[1] / "src/diffuscope/lab/opening"
UNIT = 16
"""The clean estimates are int8 in steps of 1/16, which clips none; of each the change is stored."""


def main() -> None:
    """Generate, and write what the page shows before anything has run."""
    pipe = ds.load("emoji")
    run = pipe.steps(PROMPT, seed=SEED)
    sigmas = [round(sigma, 5) for sigma in run.levels.sigmas]
    x0 = np.stack([step.x0[0].numpy() for step in snapshots(run)])
    run.result().images[0].save(OPENING / "fox.webp", quality=70, method=6)
    steps = (x0 * UNIT).round().clip(-127, 127).astype(np.int8)
    packer = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)  # of many small numbers, few of them repeated
    changes = np.diff(steps, axis=0, prepend=np.int8(0)).tobytes()
    (OPENING / "x0.bin").write_bytes(packer.compress(changes) + packer.flush())
    rgb = latent_rgb(pipe)
    about = {
        "request": {"prompt": PROMPT, "seed": SEED},
        "sigmas": sigmas,
        "shape": list(x0.shape[1:]),
        "rgb": {name: getattr(rgb, name).double().numpy().round(4).tolist() for name in ("matrix", "offset")},
    }
    (OPENING / "run.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
