import io
import struct

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from conftest import encode
from odd_images import RAMP, exif, png, tiff
from PIL import Image, ImageOps, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngInfo
from sklearn.datasets import load_sample_images
from torchmetrics.image import PeakSignalNoiseRatio

from glo_lightning.images import ImageFormat, NotAnImageError, decode_image, from_uint8, psnr, to_uint8, to_unit


@pytest.mark.parametrize(
    ("file_format", "shape"), [("WEBP", (256, 341)), ("JPEG", (400, 256)), ("PNG", (64, 64)), ("PNG", (20, 50))]
)
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


RISING = (RAMP * 255).astype(int)  # what a ramp from black to white is in 8 bits
SIGNED = {339: [2]}


def twelve_bits(pixels: np.ndarray) -> bytes:
    bits = "".join(format(int(value), "012b") for value in (pixels * 4095).ravel())
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


DEEP = {
    "12 bits": ([12], twelve_bits(RAMP), {}, RISING),
    "16 bits": ([16], (RAMP * 65535).astype("<u2"), {}, RISING),
    "16 bits, white is zero": ([16], (RAMP * 65535).astype("<u2"), {262: [0]}, 255 - RISING),
    "int16": ([16], (RAMP * 65535 - 32768).astype("<i2"), SIGNED, RISING),
    "int8": ([8], (RAMP * 255 - 128).astype("i1"), SIGNED, RISING),
    "uint32": ([32], (RAMP * (2**32 - 1)).astype("<u4"), {}, RISING),
    "int32": ([32], (RAMP * (2**32 - 1) - 2**31).astype("<i4"), SIGNED, RISING),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", DEEP)
def test_a_tiff_is_read_by_its_own_tags(kind, compressed):
    bits, pixels, tags, expected = DEEP[kind]
    decoded = decode_image(tiff(8, 8, bits, [bytes(pixels)], tags, compressed), ImageFormat(8)).numpy()
    assert np.abs(decoded - expected).max() <= 1


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_separate_planes_of_16_bits_are_read(compressed, alpha):
    planes = [RAMP, RAMP.T, 1 - RAMP] + [np.ones_like(RAMP)] * alpha
    tags = {262: [2], 284: [2]} | ({338: [2]} if alpha else {})
    strips = [(plane * 65535).astype("<u2").tobytes() for plane in planes]
    decoded = decode_image(tiff(8, 8, [16] * len(planes), strips, tags, compressed), ImageFormat(8)).numpy()
    assert np.abs(decoded - np.stack([RISING, RISING.T, 255 - RISING])).max() <= 1


UNTELLABLE = {
    "float32 pixels": tiff(8, 8, [32], [RAMP.astype("<f4").tobytes()], SIGNED | {339: [3]}),
    "of no supported format": tiff(8, 8, [32] * 3, [bytes(768)], {262: [2], 339: [3]}),
    "CMYK or YCbCr": tiff(8, 8, [8] * 3, [bytes(64)] * 3, {262: [6], 284: [2], 530: [1, 1]}),
    "separate planes": tiff(8, 8, [16] * 4, [bytes(128)] * 4, {262: [5], 284: [2]}),
}


@pytest.mark.parametrize("said", UNTELLABLE)
def test_an_image_whose_black_and_white_cannot_be_told_is_refused_by_its_kind(said):
    with pytest.raises(NotAnImageError, match=said):
        decode_image(UNTELLABLE[said], ImageFormat(8))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("is_transparent", [True, False])
def test_the_transparent_grey_of_a_png_has_the_bits_of_its_pixels(bits, is_transparent):
    value = {1: 0, 2: 2, 4: 9, 8: 77, 16: 30000}[bits]
    row = struct.pack(">H", value) * 8 if bits == 16 else int(format(value, f"0{bits}b") * 8, 2).to_bytes(bits, "big")
    trns = (b"tRNS", struct.pack(">H", value if is_transparent else value + 1))
    expected = 255 if is_transparent else value >> 8 if bits == 16 else value * 255 // (2**bits - 1)
    assert decode_image(png(8, 8, 0, bits, [row] * 8, trns), ImageFormat(8)).unique().tolist() == [expected]


@pytest.mark.parametrize(("low", "expected"), [(0x28, [255, 255, 255]), (0x29, [10, 20, 30])])
def test_a_16_bit_colour_is_transparent_only_if_all_its_bits_are_equal(low, expected):
    trns = (b"tRNS", struct.pack(">HHH", 0x0A00 | low, 0x1450, 0x1E78))
    record = png(8, 8, 2, 16, [struct.pack(">HHH", 0x0A28, 0x1450, 0x1E78) * 8] * 8, trns)
    assert decode_image(record, ImageFormat(8))[:, 4, 4].tolist() == expected


@pytest.mark.parametrize("colour", [0, 2])
def test_16_bits_of_which_only_the_lowest_are_used_are_told(colour):
    record = png(8, 8, colour, 16, [struct.pack(">H", 900) * (24 if colour else 8)] * 8)
    with pytest.warns(UserWarning, match="less than a sixteenth of the range of their 16 bits"):
        assert decode_image(record, ImageFormat(8)).max() <= 3


def metadata(text: str) -> PngInfo:
    info = PngInfo()
    info.add_text("Raw profile type exif", text)
    return info


SIX = (274, 3, 1, b"\6\0\0\0")  # turned by a quarter
BAD_METADATA = {
    "a tag that cannot be written": ("JPEG", {"exif": b"Exif\0\0" + exif(SIX, (301, 8, 1, b"\xff\xff\0\0"))}, True),
    "a text that is a fraction": ("JPEG", {"exif": b"Exif\0\0" + exif(SIX, (305, 5, 1, b"\x08\0\0\0"))}, True),
    "four bytes": ("PNG", {"exif": b"II*\0"}, False),
    "no EXIF": ("WEBP", {"exif": b"garbage!", "lossless": True}, False),
    "no hexadecimals": ("PNG", {"pnginfo": metadata("\nexif\n 10\n" + "zz" * 10)}, False),
}


@pytest.mark.parametrize("kind", BAD_METADATA)
def test_damaged_metadata_is_no_damaged_image(kind):
    file_format, options, is_turned = BAD_METADATA[kind]
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = 255
    decoded = decode_image(encode(pixels, file_format, **options), ImageFormat(32))
    upper, right = int(decoded[0, 4, 4]), int(decoded[0, 28, 28])
    assert (upper > 250, right > 250) == ((False, True) if is_turned else (True, False))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation):
    image, tags = Image.fromarray((RAMP * 200 + 50 * RAMP.T).astype(np.uint8)), Image.Exif()
    tags[274] = orientation
    record = encode(np.asarray(image), "PNG", exif=tags)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(record)))
    assert decode_image(record, ImageFormat(8))[0].tolist() == np.asarray(expected).tolist()


def test_a_palette_image_without_a_palette_is_refused():
    with pytest.raises(NotAnImageError, match="AssertionError"):
        decode_image(png(8, 8, 3, 8, [bytes(8)] * 8), ImageFormat(8))


@pytest.mark.parametrize("error", [OverflowError, struct.error, KeyError, AttributeError, OSError, RecursionError])
def test_whatever_pillow_raises_is_no_image(monkeypatch, error):
    def refuse(*_, **__):
        raise error("too much")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(NotAnImageError, match="too much"):
        decode_image(b"", ImageFormat(32))


def test_a_lossless_jpeg_is_read_at_its_full_size(monkeypatch):
    """libjpeg has no fractions of one, and cannot write one for this test."""
    load = JpegImageFile.load

    def load_whole(self):
        if self.size != (256, 256):
            raise OSError("broken data stream")
        return load(self)

    monkeypatch.setattr(JpegImageFile, "load", load_whole)
    record = encode(np.full((256, 256, 3), 77, np.uint8), "JPEG")
    assert decode_image(record, ImageFormat(32)).unique().tolist() == [77]


@pytest.mark.parametrize(
    ("size", "shape", "crop"),
    [(32, (640, 427), "center"), (128, (1600, 1200), "center"), (64, (640, 480), "none")],
)
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
    record = (tmp_path / name).read_bytes()
    with pytest.raises(NotAnImageError, match="of no supported format"):
        decode_image(record, ImageFormat(32))
    with pytest.raises(OSError, match="Ghostscript"):  # whoever opens it
        Image.open(io.BytesIO(record)).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not features.check("avif"), reason="needs libavif")
def test_an_avif_whose_crop_is_ignored_is_told():
    record = encode(np.full((32, 32, 3), 77, np.uint8), "AVIF")
    assert abs(int(decode_image(record, ImageFormat(32))[0, 9, 9]) - 77) <= 2
    with pytest.warns(UserWarning, match="ignores the crop"):
        decode_image(record + struct.pack(">I4s8I", 40, b"clap", 16, 1, 16, 1, 0, 1, 0, 1), ImageFormat(32))


def test_psnr_is_that_of_torchmetrics_over_all_pixels_and_of_each_image():
    generated, images = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    reference = PeakSignalNoiseRatio(data_range=2.0)
    torch.testing.assert_close(psnr(generated, images), reference(generated, images))
    each = torch.stack([reference(one[None], other[None]) for one, other in zip(generated, images, strict=True)])
    torch.testing.assert_close(psnr(generated, images, per_image=True), each)
    assert psnr(images, images) == torch.inf
