"""Record what calls give, to the last bit, and show after a change that they still give it.

python benchmarks/identity.py record  # writes benchmarks/results/identity.json
python benchmarks/identity.py check   # compares; exit code 1 and the names of the calls that differ

Each call is recorded by the SHA-256 of its latents and of its PNG bytes without metadata. Random models take their
weights by the names that diffusers gives to tensors, so that no order of modules here, and no name, matters. Bits
depend on the processor and on torch: record and check on one machine.
"""

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import diffuscope as ds
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.pipeline import Pipeline, Result

TAPS = {"self": "unet.*self*weights", "middle": "unet.mid.*", "cross": "unet.up.*cross*weights"}
FILE = Path(__file__).parent / "results" / "identity.json"
FAMILIES = ("sd15", "sd21-v", "sdxl", "sdxl-refiner", "sd15-inpaint", "sd15-lcm")
LORA_KEYS = ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", "mid_block.resnets.0.conv1")


def drawn(name: str, shape: list[int]) -> Tensor:
    """Numbers that depend on the name alone: norms near 1, matrices by their width, biases near 0."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if len(shape) == 1:
        return 0.02 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return noise * max(1, noise[0].numel()) ** -0.5


def random_model(name: str, folder: Path) -> Pipeline:
    """A narrow model of a family, saved and opened in diffusers' layout."""
    from safetensors.torch import load_file

    tests = Path(__file__).parents[1] / "tests"
    sys.path.insert(0, str(tests))
    from narrow import made

    made(name).save(folder, layout="diffusers")
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = {key: drawn(f"{path.parent.name}.{key}", list(value.shape)) for key, value in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})
    return ds.load(folder, device="cpu", dtype="float32")


def picture(width: int, height: int) -> Image.Image:
    """Colours that change from corner to corner."""
    return Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * k).resize((width, height)) for k in range(3)])


def mask(width: int, height: int) -> Image.Image:
    """The right half is white."""
    found = Image.new("L", (width, height), 0)
    found.paste(255, (width // 2, 0, width, height))
    return found


def emoji_calls(folder: Path) -> Iterator[tuple[str, Result]]:
    """The shipped model: every sampler, every kind of input, every way to guide."""
    pipe = ds.load("emoji", device="cpu", dtype="float32")
    short: dict[str, Any] = {"num_inference_steps": 5, "seed": 32, "upscale": 1}
    for sampler in SAMPLERS:
        yield f"sampler {sampler}", pipe("a red fox", sampler=sampler, **short)
    fox, half = picture(128, 128), mask(128, 128)
    yield "preset", pipe("a red fox on a blue background", seed=32)
    yield "several", pipe(["a red fox", "a house"], num_images_per_prompt=2, negative_prompt="blue", **short)
    yield "image", pipe("a red fox", image=fox, strength=0.6, **short)
    yield "inpaint", pipe("a red fox", image=fox, mask_image=half, strength=1.0, **short)
    yield (
        "inpaint weak",
        pipe("a red fox", image=fox, mask_image=half, strength=0.5, sampler="euler_ancestral", **short),
    )
    yield "no guidance", pipe("a red fox", guidance_scale=1.0, **short)
    ways: dict[str, dict[str, Any]] = {
        "rescale": {"rescale": 0.7},
        "norm": {"norm": "whole"},
        "end": {"end": 0, "shape": "cosine"},
        "interval": {"interval": (0.5, 10)},
        "colour": {"colour": (0.1, 0.9, 0.5)},
        "colour exact": {"colour": (0.1, 0.9, 0.5), "exact": True},
        "similarity": {"similarity": "a blue car", "similarity_scale": 2.0},
    }
    for name, options in ways.items():
        yield f"guidance {name}", pipe("a red fox", guidance_options=options, **short)
    yield "threshold", pipe("a red fox", thresholding={"ratio": 0.995, "max_value": 1.5}, **short)
    yield "karras", pipe("a red fox", sigmas="karras", final_sigma="sigma_min", sampler="euler", **short)
    yield "levels", pipe("a red fox", sigmas=(14.0, 3.0, 1.0, 0.3, 0.0), seed=32, upscale=1)
    yield "churn", pipe("a red fox", sampler="heun", sampler_options={"s_churn": 10.0}, **short)
    yield "conditioning", pipe(conditioning=pipe.encode_prompt("a red fox"), **short)
    yield "latents", pipe("a red fox", latents=torch.randn(1, 4, 16, 16, generator=torch.manual_seed(1)), **short)
    yield "function", pipe("a red fox", guidance=lambda denoise: lambda x, s: denoise(x, s) * 0.98, **short)
    for name, pattern in TAPS.items():
        yield f"tap {name}", pipe("a red fox", tap={pattern: lambda value: value * 0.9}, **short)
    path = folder / "lora.safetensors"
    shapes = _shapes(pipe, folder)
    layers = {f"unet.{key}": shapes[f"{key}.weight"] for key in LORA_KEYS}
    save_file(
        {
            f"{key}.lora_{side}.weight": drawn(f"{key}.{side}", size)
            for key, shape in layers.items()
            for side, size in (("A", [4, *shape[1:]]), ("B", [shape[0], 4, *[1] * (len(shape) - 2)]))
        },
        path,
    )
    pipe.load_lora(path, weight=0.5)
    yield "lora", pipe("a red fox", **short)


def _shapes(pipe: Pipeline, folder: Path) -> dict[str, list[int]]:
    from safetensors import safe_open

    saved = pipe.save(folder / "emoji", layout="diffusers")
    with safe_open(saved / "unet" / "diffusion_pytorch_model.safetensors", "pt") as file:
        return {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def family_calls(folder: Path) -> Iterator[tuple[str, Result]]:
    """Narrow models of other families with random weights."""
    short: dict[str, Any] = {"num_inference_steps": 4, "seed": 7}
    pipes = {name: random_model(name, folder / name) for name in FAMILIES}
    side = pipes["sd15"].config.preset.height
    fox, half = picture(side, side), mask(side, side)
    yield "sd15", pipes["sd15"]("a fox", **short)
    yield "sd15 clip skip", pipes["sd15"]("a fox", clip_skip=1, sampler="unipc", **short)
    yield "sd15 image", pipes["sd15"]("a fox", image=fox, strength=0.5, sampler="dpmpp_2m_sde", **short)
    yield "sd21-v", pipes["sd21-v"]("a fox", guidance_options={"rescale": 0.7}, **short)
    yield "sd15-inpaint", pipes["sd15-inpaint"]("a fox", image=fox, mask_image=half, **short)
    yield "sd15-lcm", pipes["sd15-lcm"]("a fox", **short)
    sizes: dict[str, Any] = {"original_size": (64, 48), "crops_coords_top_left": (4, 0), "target_size": (32, 40)}
    yield "sdxl sizes", pipes["sdxl"]("a fox", **sizes, **short)
    base = pipes["sdxl"]("a fox", denoising_end=0.7, **short)
    yield "sdxl base", base
    yield "sdxl refiner", pipes["sdxl-refiner"]("a fox", image=base.latents, denoising_start=0.7, **short)
    tapped = pipes["sdxl"]("a fox", tap={TAPS["cross"]: lambda value: value.roll(1, -1)}, **short)
    yield "sdxl tap", tapped


def digest(result: Result, folder: Path) -> dict[str, str]:
    """Of the latents and of the files."""
    latents = result.latents.contiguous().numpy().tobytes()
    files = result.save(folder / "out.png", metadata=False)
    png = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return {"latents": hashlib.sha256(latents).hexdigest(), "png": png}


def recorded() -> dict[str, dict[str, str]]:
    """Every call by its name."""
    torch.set_num_threads(2)
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for calls in (emoji_calls(folder), family_calls(folder)):
            for call, result in calls:
                found[call] = digest(result, folder)
    return found


def main(mode: str) -> int:
    """Record or check."""
    found = recorded()
    if mode == "record":
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        machine = {
            "commit": commit,
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
        }
        FILE.write_text(json.dumps(machine | {"calls": found}, indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} calls recorded")
        return 0
    known = json.loads(FILE.read_text(encoding="utf-8"))["calls"]
    differ = [name for name in known if found.get(name) != known[name]]
    print(f"{len(known) - len(differ)} of {len(known)} calls are bit-identical")
    for name in differ:
        print(f"differs: {name}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "check"))
