"""Images of strangers: read as they are seen, bounded, and refused by name where they are bad."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from common import pictures
from common.evaluation.foreign import ImagesError, RealImages, image
from common.pictures import PictureError, decode_foreign


def picture(shade=0, size=(6, 4)):
    """Uint8 [H, W, 3] of smooth colours, which JPEG keeps nearly as they are."""
    width, height = size
    ramp = np.linspace(0, 120, width * height).reshape(height, width)
    return np.stack([ramp, ramp + shade, np.full_like(ramp, 90)], axis=-1).astype(np.uint8)


def encoded(array=None, kind="PNG", mode=None, **options):
    shown = Image.fromarray(picture() if array is None else array)
    buffer = io.BytesIO()
    (shown if mode is None else shown.convert(mode)).save(buffer, format=kind, **options)
    return buffer.getvalue()


def huge(width, height):
    """A PNG that says that it has so many pixels, and has none."""

    def chunk(name, data):
        crc = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 98, "subsampling": 0}), ("WEBP", {"lossless": True})],
)
def test_each_of_the_formats_is_read(kind, options):
    got = decode_foreign(encoded(kind=kind, **options)).astype(int)
    np.testing.assert_allclose(got, picture(), atol=6 if kind == "JPEG" else 0)


def test_an_image_is_seen_upright_and_opaque_alpha_is_no_loss():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = decode_foreign(encoded(exif=exif.tobytes()))
    np.testing.assert_array_equal(turned, np.rot90(picture(), -1))
    np.testing.assert_array_equal(decode_foreign(encoded(mode="RGBA")), picture())
    grey = decode_foreign(encoded(mode="L"))
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is damaged"),
        (b"<svg/>", "is damaged"),
        (encoded()[:60], "is damaged"),
        (encoded(kind="BMP"), "is damaged"),
        (huge(9000, 9000), "has 9000 x 9000 pixels, too many"),
        (huge(60000, 60000), "pixels, too many"),
        (
            encoded(np.dstack([picture(), np.full((4, 6), 9, np.uint8)])),
            "has transparent parts",
        ),
        (encoded(np.zeros((2, 2), np.uint16)), "of another kind than 8 bits a colour (I;16)"),
        (
            encoded(save_all=True, append_images=[Image.fromarray(picture(9))]),
            "has several frames",
        ),
    ],
    ids=["empty", "text", "cut", "other format", "large", "bomb", "clear", "16 bit", "animated"],
)
def test_a_bad_image_is_refused_in_words(content, reason):
    with pytest.raises(PictureError) as caught:
        decode_foreign(content)
    assert reason in str(caught.value)


@pytest.fixture
def folder(tmp_path):
    """Three real images of two sizes, one in a folder of its own, and a file that is none."""
    place = tmp_path / "real"
    (place / "more").mkdir(parents=True)
    for name, size in {"a.png": (6, 4), "b.PNG": (6, 4), "more/c.png": (3, 5)}.items():
        (place / name).write_bytes(encoded(picture(len(name), size)))
    (place / "licence.txt").write_text("free")
    return place


def test_features_of_all_images_each_in_its_own_size(folder):
    calls, progress = [], []

    def extract(images):
        calls.append(images.shape)
        return images.mean(axis=(1, 2)).astype(np.float64)

    real = RealImages.open(folder)
    features = real.features(extract, lambda *done: progress.append(done))
    assert calls == [(2, 4, 6, 3), (1, 5, 3, 3)]
    assert progress == [(2, 3), (3, 3)]
    expected = [image(file).mean(axis=(0, 1)) for file in real.files]
    np.testing.assert_allclose(features, expected)


def test_the_digest_is_of_what_the_images_are(folder, tmp_path):
    first = RealImages.open(folder)
    assert first.digest.startswith("3 images ")
    (folder / "a.png").rename(folder / "z.png")
    (folder / "licence.txt").unlink()
    assert RealImages.open(folder).digest == first.digest
    (folder / "z.png").write_bytes(encoded(picture(77)))
    assert RealImages.open(folder).digest != first.digest


def test_what_is_wrong_with_a_folder_is_one_line(folder, tmp_path):
    def refused(path=folder):
        with pytest.raises(ImagesError) as caught:
            RealImages.open(path).features(lambda images: images)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert (
        refused(tmp_path / "gone")
        == f"{tmp_path / 'gone'} is not there: a folder of images is needed"
    )
    assert "a.png is not a folder" in refused(folder / "a.png")
    assert "more has one image (PNG, JPEG or WebP), and at least 2 are needed" in refused(
        folder / "more"
    )
    (tmp_path / "none").mkdir()
    assert "none has no image" in refused(tmp_path / "none")
    (folder / "a.png").write_bytes(encoded()[:50])
    assert refused() == f"the image {folder / 'a.png'} is damaged"
    (folder / "a.png").write_bytes(b"")
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "outside.png")
    assert "a.png leads out of " in refused()
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to("a.png")
    assert "a.png" in refused()
    (folder / "a.png").unlink()
    (folder / "linked").symlink_to(tmp_path, target_is_directory=True)
    assert refused() == f"{folder / 'linked'} is a link to a folder: name that folder"


def test_a_file_of_too_many_bytes_is_not_read(folder):
    with (folder / "a.png").open("wb") as file:
        file.truncate(pictures.reading.DOCUMENT + 1)
    with pytest.raises(ImagesError, match=r"a.png: it has \d+ bytes, and at most"):
        RealImages.open(folder)
