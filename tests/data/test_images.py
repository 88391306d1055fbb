import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from boxwright.data.images import check_image, count_frames, read_image
from boxwright.errors import DataError

HEIGHT, WIDTH = 24, 40


@pytest.fixture
def picture() -> Image.Image:
    """A smooth picture whose corners all differ."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([x * 6, y * 10, (x + y) * 4], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def colours_of(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "PA"])
def test_every_mode_of_a_png_becomes_uint8_rgb(tmp_path, picture, mode):
    path = tmp_path / f"{mode}.{'tiff' if mode == 'PA' else 'png'}"
    converted = picture.convert("P").convert("PA") if mode == "PA" else picture.convert(mode)
    converted.save(path)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(path, (WIDTH, HEIGHT))

    assert image.dtype == torch.uint8
    assert torch.equal(image, colours_of(converted.convert("RGBA").convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_palette_with_transparency_keeps_its_colours(tmp_path, picture, transparency):
    palette = picture.convert("P")
    palette.save(tmp_path / "a.png", transparency=transparency)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.png")

    assert torch.equal(image, colours_of(palette.convert("RGB")))


def test_cmyk_jpeg_keeps_its_colours(tmp_path, picture):
    picture.convert("CMYK").save(tmp_path / "a.jpg", quality=98)

    difference = read_image(tmp_path / "a.jpg").float() - colours_of(picture)

    assert difference.abs().mean() < 4


def test_sixteen_bit_keeps_the_upper_byte(tmp_path):
    values = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 60 + 300
    Image.fromarray(values).save(tmp_path / "a.png")

    image = read_image(tmp_path / "a.png")

    assert torch.equal(image, torch.from_numpy((values >> 8).astype(np.uint8)).expand(3, -1, -1))


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, 1), (np.int32, 70_000), (np.int32, -1)])
def test_pixels_without_a_range_are_named(tmp_path, dtype, value):
    pixels = np.zeros((8, 8), dtype)
    pixels[2, 3] = value
    Image.fromarray(pixels).save(tmp_path / "deep.tiff")

    with pytest.raises(DataError, match=r"deep\.tiff: 32-bit .* no fixed range"):
        read_image(tmp_path / "deep.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tiff"])
def test_a_truncated_file_is_named(tmp_path, picture, suffix):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "jpeg" if suffix == "jpg" else suffix)
    data = stream.getvalue()
    path = tmp_path / f"cut.{suffix}"

    for share in (0.02, 0.3, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match="cut"):
            read_image(path)


def test_what_is_not_an_image_is_named(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")

    with pytest.raises(DataError, match=r"page\.jpg: not an image"):
        read_image(tmp_path / "page.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: no such image"):
        check_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="cannot be decoded"):
        read_image(tmp_path)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")  # what Pillow would say beside our error
@pytest.mark.parametrize("limit", [HEIGHT * WIDTH - 1, HEIGHT * WIDTH // 3])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, picture, monkeypatch, limit):
    picture.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)

    with pytest.raises(DataError, match=r"bomb\.png.*MAX_IMAGE_PIXELS"):
        check_image(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_image(tmp_path / "bomb.png")


def test_pictures_in_a_file_are_counted(tmp_path, picture):
    others = [picture.rotate(90), picture.rotate(180)]
    for name, frames in (("one.png", 1), ("moving.gif", 3), ("pages.tif", 3), ("phone.mpo", 1)):
        more = {} if name == "one.png" else {"save_all": True, "append_images": others}
        picture.save(tmp_path / name, **more)
        assert count_frames(tmp_path / name) == frames
    assert read_image(tmp_path / "pages.tif").shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_that_was_cut_off_is_found_without_decoding_the_others(tmp_path, picture, monkeypatch, suffix):
    whole, cut, longer = (tmp_path / f"{name}.{suffix}" for name in ("whole", "cut", "longer"))
    picture.save(whole)
    cut.write_bytes(whole.read_bytes()[:-40])
    longer.write_bytes(whole.read_bytes() + b"what a camera adds")

    check_image(longer, (WIDTH, HEIGHT))
    with pytest.raises(DataError, match=rf"cut\.{suffix}: cannot be decoded"):
        check_image(cut, (WIDTH, HEIGHT))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    check_image(whole, (WIDTH, HEIGHT))


def save_with_orientation(picture: Image.Image, path, orientation: int) -> torch.Tensor:
    """Save so that viewers show `picture`; return the stored pixels."""
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    pixels = picture if stored is None else picture.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels.save(path, exif=exif)
    return colours_of(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright_unless_its_annotated_size_is_that_of_the_stored_pixels(tmp_path, picture, orientation):
    path = tmp_path / "turned.png"
    stored = save_with_orientation(picture, path, orientation)
    upright = colours_of(picture)

    assert torch.equal(read_image(path), upright)
    assert torch.equal(read_image(path, (WIDTH, HEIGHT)), upright)
    if orientation > 4:
        assert torch.equal(read_image(path, (HEIGHT, WIDTH)), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_square_is_upright(tmp_path, picture, orientation):
    square = picture.resize((24, 24))
    save_with_orientation(square, tmp_path / "square.png", orientation)
    assert torch.equal(read_image(tmp_path / "square.png", (24, 24)), colours_of(square))


def test_a_size_that_no_orientation_explains_is_named(tmp_path, picture):
    picture.save(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"a\.png: is 40x24, annotated as 24x40"):
        read_image(tmp_path / "a.png", (HEIGHT, WIDTH))
    with pytest.raises(DataError, match="annotated as 41x24"):
        check_image(tmp_path / "a.png", (WIDTH + 1, HEIGHT))


@pytest.mark.parametrize("format", ["JPEG", "MPO"])
def test_a_large_jpeg_may_be_decoded_smaller_but_not_too_small(tmp_path, picture, format):
    big = picture.resize((WIDTH * 20, HEIGHT * 20))
    big.save(tmp_path / "big.jpg", format, quality=95)

    half = read_image(tmp_path / "big.jpg", big.size, enough=200)
    whole = read_image(tmp_path / "big.jpg", big.size, enough=400)

    assert half.shape == (3, HEIGHT * 10, WIDTH * 10)
    assert whole.shape == (3, HEIGHT * 20, WIDTH * 20)
    shrunk = colours_of(big.resize((WIDTH * 10, HEIGHT * 10), Image.Resampling.BOX))
    assert (half.float() - shrunk).abs().mean() < 2
