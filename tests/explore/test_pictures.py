import io

import numpy as np
import torch
from PIL import Image

from glo_lightning.explore.outputs import write_animation
from glo_lightning.explore.pictures import picture


def test_a_picture_holds_every_pixel_of_its_images():
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    shown = picture([[images[0], "=", images[1]], [None, "+", images[2]]], "title", ["a", "", "c"], ["row", ""])
    pixels = np.asarray(shown)
    assert picture([[images[0]]]).tobytes() == picture([[images[0].float() / 127.5 - 1]]).tobytes()
    for image in images.permute(0, 2, 3, 1).numpy():
        corners = np.argwhere((pixels == image[0, 0]).all(2))
        assert any(np.array_equal(pixels[y : y + 64, x : x + 64], image) for y, x in corners)
    small = images[0, :, :30, :30]
    enlarged = small.permute(1, 2, 0).numpy().repeat(3, 0).repeat(3, 1)  # by a whole factor to 64 pixels at least
    assert np.array_equal(np.asarray(picture([[small]]))[8:98, 8:98], enlarged)


def test_an_animation_shows_its_frames_in_turn_without_end():
    greys = torch.tensor([-0.9, -0.3, 0.4, 0.9])
    file = io.BytesIO()
    write_animation(file, greys[:, None, None, None].expand(-1, 3, 32, 32))
    with Image.open(file) as moving:
        assert (moving.n_frames, moving.size, moving.info["loop"]) == (4, (128, 128), 0)
        for number, grey in enumerate(greys):
            moving.seek(number)
            shown = np.asarray(moving.convert("RGB"), float) / 127.5 - 1
            np.testing.assert_allclose(shown, float(grey), atol=0.05)
