import io

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from conftest import encode
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from sklearn.datasets import load_sample_images
from torchmetrics.image import PeakSignalNoiseRatio

from glo_lightning.images import ImageFormat, NotAnImageError, decode_image, from_uint8, psnr, to_uint8, to_unit


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG", "PNG"])
@pytest.mark.parametrize("shape", [(256, 341), (400, 256), (64, 64), (20, 50)])
def test_decoding_is_torchvisions_resize_and_centre_crop(file_format, shape):
    ramp = np.add.outer(np.linspace(0, 120, shape[0]), np.linspace(0, 120, shape[1]))
    pixels = np.stack([ramp, 240 - ramp, ramp / 2], -1).astype(np.uint8)
    record = encode(pixels, file_format)
    expected = TF.pil_to_tensor(Image.open(io.BytesIO(record)).convert("RGB"))
    expected = TF.center_crop(TF.resize(expected, 64, antialias=True), [64, 64])
    decoded = decode_image(record, ImageFormat(64))
    assert decoded.shape == (3, 64, 64)
    # torchvision rounds the longer side and the crop to whole pixels: half a pixel, of ramps that rise by up to 6 each
    difference = (decoded.int() - expected.int()).abs()
    assert difference.max() <= 4
    assert difference.float().mean() <= 1


def test_downscaling_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert (decode_image(encode(stripes), ImageFormat(64))[:, :, 1:-1].int() - 127).abs().max() <= 2


def test_every_channel_mode_becomes_rgb():
    white, red = (255, 255, 255), (255, 0, 0)

    def middle(image: Image.Image, file_format="PNG", **options):
        record = io.BytesIO()
        image.save(record, file_format, **options)
        return tuple(decode_image(record.getvalue(), ImageFormat(32))[:, 16, 16].tolist())

    assert middle(Image.new("RGBA", (32, 32), (255, 0, 0, 0))) == white
    assert middle(Image.new("RGBA", (32, 32), (255, 0, 0, 255))) == red
    assert middle(Image.new("RGB", (32, 32), red).quantize()) == red
    assert middle(Image.new("L", (32, 32), 77)) == (77, 77, 77)
    assert middle(Image.new("LA", (32, 32), (77, 0))) == white
    assert middle(Image.new("1", (32, 32), 1)) == white
    assert middle(Image.fromarray(np.full((32, 32), 77 * 256, np.uint16))) == (77, 77, 77)
    assert middle(Image.new("CMYK", (32, 32), (0, 0, 0, 0)), "JPEG") == white


def test_exif_orientation_is_applied():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    assert decode_image(encode(pixels, "PNG", exif=exif), ImageFormat(32))[0, 0, 0] == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1)])
def test_an_image_of_one_pixel_or_one_line_is_an_image(shape):
    pixels = np.full((*shape, 3), 77, np.uint8)
    assert (decode_image(encode(pixels), ImageFormat(32)) == 77).all()


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animated_image_the_first_frame_is_taken(file_format):
    frames, record = [Image.new("RGB", (32, 32), (value, 0, 0)) for value in (200, 20)], io.BytesIO()
    frames[0].save(record, file_format, save_all=True, append_images=frames[1:])
    assert abs(int(decode_image(record.getvalue(), ImageFormat(32))[0, 16, 16]) - 200) <= 5


def test_pixels_come_back_from_minus_one_to_one():
    values = torch.arange(256, dtype=torch.uint8)
    signed = from_uint8(values)
    np.testing.assert_allclose(signed, np.linspace(-1, 1, 256), atol=1e-6)
    assert torch.equal(to_uint8(signed), values)
    np.testing.assert_allclose(to_unit(signed), np.linspace(0, 1, 256), atol=1e-6)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


@pytest.mark.parametrize("error", [OverflowError, SyntaxError, ValueError, OSError, Image.DecompressionBombError])
def test_whatever_pillow_raises_is_no_image(monkeypatch, error):
    def refuse(*_):
        raise error("too much")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(NotAnImageError, match="too much"):
        decode_image(b"", ImageFormat(32))


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("shape", [(640, 427), (640, 480), (1600, 1200)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_draft_mode_changes_photographs_by_less_than_half_a_level(size, shape, crop, monkeypatch):
    for photograph in load_sample_images().images:
        record = encode(np.asarray(Image.fromarray(photograph).resize(shape)), "JPEG", quality=85)
        quick = decode_image(record, ImageFormat(size, crop=crop))
        with monkeypatch.context() as patch:
            patch.setattr(JpegImageFile, "draft", lambda self, mode, size: None)
            whole = decode_image(record, ImageFormat(size, crop=crop))
        assert (quick.float() - whole.float()).abs().mean() <= 0.5


def test_draft_mode_is_used_where_twice_the_side_that_is_asked_for_is_left(monkeypatch):
    sizes, resize = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: sizes.append(self.size) or resize(self, *a, **k))
    expected = {(640, 480): (320, 240), (2000, 1600): (250, 200), (4096, 3072): (512, 384), (641, 480): (641, 480)}
    for (width, height), decoded in (expected | {(100, 90): (100, 90)}).items():
        decode_image(encode(np.zeros((height, width, 3), np.uint8), "JPEG"), ImageFormat(64))
        assert sizes.pop() == decoded


@pytest.mark.parametrize("name", ["image.png", "image.eps"])
def test_no_image_starts_another_program(tmp_path, monkeypatch, name):
    """Pillow has Ghostscript read an EPS, whatever its file is called."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "picture.eps")
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).write_bytes((tmp_path / "picture.eps").read_bytes())
    with pytest.raises(NotAnImageError, match="Ghostscript"):
        decode_image((tmp_path / name).read_bytes(), ImageFormat(32))
    assert not (tmp_path / "ran").exists()


def test_psnr_is_that_of_torchmetrics_over_all_pixels_and_of_each_image():
    generated, images = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reference = PeakSignalNoiseRatio(data_range=2.0)
    torch.testing.assert_close(psnr(generated, images), reference(generated, images))
    each = torch.stack([reference(one[None], other[None]) for one, other in zip(generated, images, strict=True)])
    torch.testing.assert_close(psnr(generated, images, per_image=True), each)
    assert psnr(images, images) == torch.inf
