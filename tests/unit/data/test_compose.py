import numpy as np
import pytest
import torch
from PIL import Image

from diffuscope.data.compose import Canvas, compose, resampling_matrix
from diffuscope.data.scenes import blank_scenes, sample_scenes
from diffuscope.data.split import split
from diffuscope.data.sprites import sprite_sampler
from refusals import refused

SIDE = 32


@pytest.fixture
def canvas(sprites, tones) -> Canvas:
    return Canvas.on("cpu", sprites, torch.from_numpy(tones))


def by_pillow(sprite: torch.Tensor, left: int, top: int, size: int, background: tuple[int, int, int]) -> np.ndarray:
    """[3,SIDE,SIDE] in [0,1]: one sprite at whole pixels, resampled by Pillow in float."""
    rgba = sprite.numpy().astype(np.float32) / 255
    channels = [*(rgba[:3] * rgba[3]), rgba[3]]
    small = [Image.fromarray(c).resize((size, size), Image.Resampling.BILINEAR) for c in channels]
    layer = np.zeros((4, SIDE, SIDE), np.float32)
    layer[:, top : top + size, left : left + size] = np.stack([np.asarray(c) for c in small])
    under = np.asarray(background, np.float32)[:, None, None] / 255
    return layer[:3] + under * (1 - layer[3])


def test_a_whole_sprite_is_copied_exactly(canvas, sprites):
    scenes = blank_scenes(3)
    scenes.sprite[:, 0] = 2, 0, 5
    rgba = sprites[[2, 0, 5]].float() / 255
    wanted = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    assert torch.equal(compose(canvas, scenes), wanted * 2 - 1)


@pytest.mark.parametrize(("left", "top", "size"), [(3, 9, 16), (0, 0, 24), (8, 8, 13), (11, 2, 10)])
def test_pillow_agrees(sprites, tones, left, top, size):
    """To 2e-3 of the range: Pillow renormalises its filter at a sprite's border, so the border is kept clear."""
    sprites = torch.nn.functional.pad(sprites[..., 6:-6, 6:-6], (6, 6, 6, 6))
    scenes = blank_scenes(1)
    scenes.sprite[0, 0] = 1
    scenes.x[0, 0], scenes.y[0, 0] = (left + size / 2) / SIDE, (top + size / 2) / SIDE
    scenes.size[0, 0] = size / SIDE
    scenes.background[0] = 20, 200, 90
    made = compose(Canvas.on("cpu", sprites, torch.from_numpy(tones)), scenes)[0].numpy() / 2 + 0.5
    np.testing.assert_allclose(made, by_pillow(sprites[1], left, top, size, (20, 200, 90)), atol=2e-3)


def test_mirror_is_the_flip(canvas):
    scenes = blank_scenes(2)
    scenes.sprite[:, 0] = 4
    scenes.size[:, 0] = 0.7
    scenes.mirror[1, 0] = True
    plain, mirrored = compose(canvas, scenes)
    torch.testing.assert_close(mirrored, plain.flip(2), atol=1e-5, rtol=0)


def test_a_batch_is_its_scenes_one_by_one(corpus, canvas, tones, recolourable):
    """Fast and slow twin: the batch against single scenes, within float32 rounding of the matrix products."""
    scenes = sample_scenes(sprite_sampler(corpus, split(corpus), tones, recolourable), 48, seed=3, processes=1)
    together = compose(canvas, scenes)
    alone = torch.cat([compose(canvas, scenes.take([i])) for i in range(48)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert together.min() >= -1
    assert together.max() <= 1
    assert together.isfinite().all()


def test_later_slots_cover_earlier_ones(canvas, corpus):
    flag = next(i for i, p in enumerate(corpus.pictures) if p.concept == "elephant")
    scenes = blank_scenes(1)
    scenes.sprite[0, :2] = 0, flag
    centre = compose(canvas, scenes)[0, :, SIDE // 2, SIDE // 2]
    torch.testing.assert_close(centre, torch.full((3,), 0x99 / 255 * 2 - 1), atol=1e-6, rtol=0)


def test_an_empty_scene_is_its_background(canvas):
    scenes = blank_scenes(1)
    scenes.background[0] = 255, 0, 51
    torch.testing.assert_close(compose(canvas, scenes)[0, :, 3, 7], torch.tensor([1.0, -1.0, -0.6]))


def test_weights_are_the_identity_at_full_size():
    matrix = resampling_matrix(torch.tensor([0.5]), torch.tensor([1.0]), 16)[0]
    torch.testing.assert_close(matrix, torch.eye(16), atol=1e-5, rtol=0)


def test_wrong_sprites(sprites, tones):
    with refused("sprites"):
        Canvas.on("cpu", sprites.permute(0, 2, 3, 1), torch.from_numpy(tones))


def test_autocast_changes_nothing(corpus, canvas, tones, recolourable):
    scenes = sample_scenes(sprite_sampler(corpus, split(corpus), tones, recolourable), 8, seed=3, processes=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = compose(canvas, scenes)
    assert torch.equal(under, compose(canvas, scenes))
