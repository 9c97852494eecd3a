"""Pictures become tensors bit for bit as Keras makes them, or are refused in one line."""

import io
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nplrp.errors import ImageError
from nplrp.images import FORMATS, RESAMPLE, display, load_pixels, normalize, open_image, preprocess, sized_pixels
from nplrp.model import Model, Preprocessing
from nplrp.preprocessing import MODES

DATA = Path(__file__).parent / "data" / "images"
RGB = DATA / "rgb.png"
KERAS = np.load(DATA / "keras_expected.npz")
TORCHVISION = np.load(DATA / "torchvision_expected.npz")
MODES_OF_KERAS = ("none|3", "unit|3", "caffe|3", "tf|3", "torch|3", "none|1")


def model(height=9, width=13, channels=3, **preprocessing):
    return Model("small", (height, width, channels), (), preprocessing=Preprocessing(**{"mode": "caffe", **preprocessing}))


def picture(height=20, width=17, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def refusal(*arguments, **options):
    """Return the one line that an ImageError says."""
    with pytest.raises(ImageError) as caught:
        preprocess(*arguments, **options)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


# --- as others make them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "cubic", ["box"]])
def test_a_filter_that_there_is_not(name):
    picture = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(ImageError, match=r"unknown resample filter .*; there are nearest, "):
        sized_pixels([picture], (4, 4, 3), Preprocessing(mode="caffe", resample=name))


def test_all_that_others_make_is_stored():
    pictures = {path.name for path in DATA.iterdir() if path.suffix not in (".npz", ".py")}
    assert len(pictures) == 9
    wanted = {
        f"{name}|{how}|{mode}" for name in pictures for how in (RESAMPLE if name == "rgb.png" else RESAMPLE[:2]) for mode in MODES_OF_KERAS
    }
    assert set(KERAS.files) == wanted
    assert set(TORCHVISION.files) == {f"{how}|{size}" for how in RESAMPLE[:3] for size in ("12|11", "16|9", "9|9")}


def skip_other_filters(resample):
    """What Keras and torchvision gave was recorded with Pillow 13, whose filters round otherwise than those of older ones."""
    if resample != "nearest" and int(PIL.__version__.partition(".")[0]) < 13:
        pytest.skip("the stored pixels were filtered by Pillow 13")


@pytest.mark.parametrize("key", KERAS.files)
def test_equals_keras(key):
    skip_other_filters(key.split("|")[1])
    name, resample, mode, channels = key.split("|")
    got = preprocess(DATA / name, model(channels=int(channels), mode=mode, resample=resample))
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert got[0].tobytes() == KERAS[key].astype(np.float32).tobytes()


@pytest.mark.parametrize("key", TORCHVISION.files)
def test_equals_torchvision(key):
    skip_other_filters(key.split("|")[0])
    resample, resize_to, side = key.split("|")
    how = {"mode": "torch", "resample": resample, "crop": True, "resize_to": int(resize_to)}
    assert preprocess(RGB, model(int(side), int(side), **how))[0].tobytes() == TORCHVISION[key].tobytes()


def test_without_resize_to_the_cut_is_as_large_as_it_can_be():
    assert preprocess(RGB, model(9, 9, mode="torch", crop=True))[0].tobytes() == TORCHVISION["nearest|9|9"].tobytes()


def test_one_pixel_by_hand():
    """Blue first; 255 - 103.939 and so on, rounded once to float32."""
    pixel = np.array([[[10, 20, 255]]], dtype=np.uint8)
    b, g, r = np.float32(255) - np.float32(103.939), np.float32(20) - np.float32(116.779), np.float32(10) - np.float32(123.68)
    assert preprocess(pixel, model(1, 1)).tolist() == [[[[b, g, r]]]]
    assert preprocess(pixel, model(1, 1, mode="tf"))[0, 0, 0, 2] == 1.0
    assert preprocess(pixel, model(1, 1, mode="unit"))[0, 0, 0].tolist() == [np.float32(10) / 255, np.float32(20) / 255, 1.0]


def test_nearest_by_hand():
    """Pillow takes the source pixel under the centre of each target pixel: of 4, the second and the last."""
    row = np.array([[0, 50, 100, 150]], dtype=np.uint8)
    assert preprocess(row, model(1, 2, 1, mode="none")).ravel().tolist() == [50, 150]


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    target=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    resample=st.sampled_from(RESAMPLE),
    mode=st.sampled_from(sorted(MODES)),
)
def test_equals_its_twin_at_every_size(size, target, resample, mode):
    """The whole of Keras's `load_img` and `preprocess_input`, written down once more with loops over channels."""
    pixels = picture(*size)
    x = np.array(Image.fromarray(pixels).resize((target[1], target[0]), Image.Resampling[resample.upper()]), dtype=np.float32)
    if mode == "caffe":
        x = np.stack([x[..., 2 - c] - np.float32([103.939, 116.779, 123.68][c]) for c in range(3)], axis=-1)
    elif mode == "tf":
        x = x / np.float32(127.5) - np.float32(1)
    elif mode in ("torch", "unit"):
        x = x / np.float32(255)
    if mode == "torch":
        x = np.stack([(x[..., c] - np.float32(m)) / np.float32(s) for c, m, s in zip(range(3), *MODES[mode][2:], strict=True)], axis=-1)
    got = preprocess(pixels, model(*target, mode=mode, resample=resample))
    assert got[0].tobytes() == np.ascontiguousarray(x).tobytes()


# --- laws --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{}, {"resample": "bicubic"}, {"crop": True}], ids=str)
def test_a_batch_is_its_pictures(how):
    several = [RGB, str(DATA / "grey.png"), Image.open(DATA / "palette_transparent.png"), picture(), picture(5, 40).astype(np.float64)]
    batch = preprocess(several, model(), **how)
    assert batch.shape == (5, 9, 13, 3)
    for one, image in zip(batch, several, strict=True):
        assert preprocess(image, model(), **how)[0].tobytes() == one.tobytes()


def test_every_way_to_give_a_picture_is_the_same():
    pixels = np.asarray(Image.open(RGB))
    expected = preprocess(RGB, model())
    ways = [
        str(RGB),
        [RGB],
        (path for path in [RGB]),
        io.BytesIO(RGB.read_bytes()),
        [io.BytesIO(RGB.read_bytes())],
        Image.open(RGB),
        pixels,
        pixels[np.newaxis],
        pixels.astype(np.float32),
        pixels.astype(np.float64),
        pixels.astype(np.float16),
        pixels.astype(np.uint16) * 257,
        np.asfortranarray(pixels),
        pixels[:, ::-1][:, ::-1],
    ]
    for way in ways:
        assert preprocess(way, model()).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"])
def test_a_file_is_the_pixels_pillow_decodes(kind, tmp_path):
    path = tmp_path / "picture.dat"  # the name doesn't matter
    path.write_bytes(encoded(Image.open(RGB), kind))
    assert preprocess(path, model()).tobytes() == preprocess(np.asarray(Image.open(path).convert("RGB")), model()).tobytes()


DECODE = """
import contextlib, sys
from nplrp.images import sized_pixels
from nplrp.preprocessing import Preprocessing

def most():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

told = []
def room(size):
    told.append(size)
    return contextlib.nullcontext()

sized_pixels(sys.argv[1], (8, 8, 3), Preprocessing("tf"), room=room)
before = most()
sized_pixels(sys.argv[2], (8, 8, 3), Preprocessing("tf"), room=room)
print(most() - before, told[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how much memory was taken at most")
@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("JPEG2000", "RGBA", {}),
        ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
        ("GIF", "RGB", {}),
    ],
)
def test_the_memory_that_is_told_is_enough_to_decode(kind, mode, options, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (250, 250, len(Image.new(mode, (1, 1)).getbands())), np.uint8)
    for name, side in (("small", 1), ("large", 12)):
        pixels = np.kron(noise, np.ones((side, side, 1), np.uint8))
        Image.fromarray(pixels, mode if mode == "CMYK" else None).save(tmp_path / name, kind, **options)
    command = [sys.executable, "-c", DECODE, str(tmp_path / "small"), str(tmp_path / "large")]
    took, told = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert 0 < took <= told + 2_000_000  # what a thread's or the interpreter's own memory may grow by meanwhile


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_arrays_of_either_shape(channels):
    grey = picture(channels=1)
    assert (
        preprocess(grey[..., 0], model(channels=channels, mode="tf")).tobytes()
        == preprocess(np.repeat(grey, 3, axis=2), model(channels=channels, mode="tf")).tobytes()
    )


def test_floating_pixels_are_resized_without_rounding():
    pixels = picture(40, 40).astype(np.float32)
    exact = load_pixels(pixels, model(resample="bilinear"))
    rounded = load_pixels(pixels.astype(np.uint8), model(resample="bilinear"))
    assert exact.dtype == np.float32
    assert rounded.dtype == np.uint8
    assert 0 < np.abs(exact - rounded).max() <= 1
    overshooting = np.repeat(np.repeat(picture(4, 4) // 128 * 255.0, 5, axis=0), 5, axis=1)
    sharp = load_pixels(overshooting, model(resample="lanczos"))
    assert sharp.min() == 0
    assert sharp.max() == 255


def test_floating_colour_to_grey_is_pillows_but_for_rounding():
    pixels = picture(9, 13)
    exact, rounded = (load_pixels(p, model(channels=1, mode="none")).astype(float) for p in (pixels.astype(np.float64), pixels))
    assert np.abs(exact - rounded).max() <= 0.501
    assert load_pixels(np.full((9, 13, 3), 255.0), model(channels=1, mode="none")).max() == 255


def test_options_override_the_model():
    given_by_model = preprocess(RGB, model(resample="bilinear", crop=True, resize_to=15))
    assert preprocess(RGB, model(), resample="bilinear", crop=True, resize_to=15).tobytes() == given_by_model.tobytes()
    assert preprocess(RGB, model(crop=True), crop=False).tobytes() == preprocess(RGB, model()).tobytes()


def test_crop_keeps_the_middle_and_the_shape_of_things():
    pixels = np.zeros((30, 90, 3), dtype=np.uint8)
    pixels[:, 30:60] = 200
    assert (load_pixels(pixels, model(30, 30), crop=True) == 200).all()
    assert (load_pixels(pixels.transpose(1, 0, 2), model(10, 10), crop=True) == 200).all()
    assert not (load_pixels(pixels, model(30, 30)) == 200).all()


@settings(deadline=None, max_examples=60)
@given(size=st.tuples(st.integers(1, 60), st.integers(1, 60)), target=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_crop_always_fills_the_input(size, target):
    assert (load_pixels(np.full((*size, 3), 7, dtype=np.uint8), model(*target, crop=True)) == 7).all()


def test_the_input_is_not_changed():
    pixels = picture()
    copy, image = pixels.copy(), Image.open(DATA / "palette_transparent.png")
    preprocess([pixels, image], model())
    np.testing.assert_array_equal(pixels, copy)
    assert image.mode == "P"
    assert "transparency" in image.info
    x = load_pixels(pixels.astype(np.float32), model())
    before = x.copy()
    normalize(x, "torch")
    np.testing.assert_array_equal(x, before)


def test_display_is_the_picture_the_model_saw():
    pixels = load_pixels(RGB, model())
    np.testing.assert_array_equal(display(pixels), pixels)
    np.testing.assert_array_equal(normalize(display(pixels), "caffe"), preprocess(RGB, model()))
    grey = load_pixels(RGB, model(channels=1))
    assert grey.shape == (1, 9, 13, 1)
    np.testing.assert_array_equal(display(grey), np.repeat(grey, 3, axis=3))
    np.testing.assert_array_equal(display(np.array([[[[0.4, 0.6, 254.7]]]], dtype=np.float32)), [[[[0, 1, 255]]]])


# --- what Keras would garble -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["array", "png", "tiff", "big-endian tiff", "ppm"])
def test_16_bits_are_scaled_not_clipped(how):
    deep = np.array([[0, 128, 129, 257, 25700, 65535]], dtype=np.uint16)
    shown = [0, 0, 1, 1, 100, 255]
    image = Image.fromarray(deep)
    if how == "array":
        source = deep
    elif how == "ppm":
        source = io.BytesIO(b"P5 6 1 65535\n" + deep.astype(">u2").tobytes())
    elif how == "big-endian tiff":
        source = io.BytesIO(encoded(Image.frombytes("I;16B", (6, 1), deep.astype(">u2").tobytes()), "TIFF"))
    else:
        source = io.BytesIO(encoded(image, how.upper()))
    assert load_pixels(source, model(1, 6, 1))[0, 0, :, 0].tolist() == shown
    assert load_pixels(np.repeat(deep[..., np.newaxis], 3, axis=2), model(1, 6))[0, 0, :, 2].tolist() == shown


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_have_no_known_range(mode):
    image = Image.new(mode, (4, 4), 7)
    assert "32-bit" in refusal(image, model())
    assert "32-bit" in refusal(io.BytesIO(encoded(image, "TIFF")), model())


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_several_frames_are_refused_but_a_chosen_one_is_not(kind, options, tmp_path):
    frames = [Image.fromarray(picture(seed=k)) for k in range(3)]
    path = tmp_path / "film.bin"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    message = refusal(path, model())
    assert ("3 frames" if kind in ("PNG", "WEBP") else "several frames") in message  # the others would have to be read for it
    assert "seek" in message
    with Image.open(path) as image:
        image.seek(1)
        chosen = preprocess(image, model())
        assert chosen.tobytes() == preprocess(np.asarray(image.convert("RGB")), model()).tobytes()
    path.write_bytes(encoded(frames[1], kind, **options))
    assert kind == "GIF" or preprocess(path, model()).tobytes() == chosen.tobytes()


def test_a_photograph_with_a_preview_is_a_photograph(tmp_path):
    path = tmp_path / "phone.jpg"
    frames = [Image.fromarray(picture(seed=k)) for k in range(2)]
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert image.n_frames == 2
        first = np.asarray(image.convert("RGB"))
    assert preprocess(path, model()).tobytes() == preprocess(first, model()).tobytes()


def test_exif_orientation_only_when_asked_for():
    upright = np.asarray(Image.open(DATA / "exif.png"))
    lying = preprocess(upright, model())
    assert preprocess(DATA / "exif.png", model()).tobytes() == lying.tobytes()
    assert preprocess(DATA / "exif.png", model(), exif=True).tobytes() == preprocess(np.rot90(upright, -1), model()).tobytes()
    assert preprocess(Image.open(DATA / "exif.png"), model(), exif=True).tobytes() != lying.tobytes()


# --- refused ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.png", b"", "not a picture"),
        ("letter.jpg", b"Dear reader, this is no photograph.\n" * 9, "not a picture"),
        ("start.png", RGB.read_bytes()[:20], ""),
        ("half.png", RGB.read_bytes()[:900], "truncated or damaged"),
        ("half.jpg", encoded(Image.fromarray(picture(90, 90)), "JPEG")[:2000], "truncated or damaged"),
        ("drawing.eps", encoded(Image.fromarray(picture()), "EPS"), "not a picture"),
        ("flat.ppm", b"P6 0 5 255\n", ""),
    ],
)
def test_bad_files(name, content, said, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    message = refusal(path, model())
    assert str(path) in message
    assert said in message
    assert "image 1:" in refusal([RGB, io.BytesIO(content)], model())


def test_files_that_are_not_there(tmp_path):
    assert "No such file" in refusal(tmp_path / "dog.jpg", model())
    assert "folder" in refusal(tmp_path, model())
    assert refusal("a\0b.png", model())


def png_that_claims(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_001, 9_500, 20_000, 2**31 - 1])
def test_huge_files_are_refused_by_their_header(side, tmp_path):
    """8001 is over our limit, 9500 over the one at which Pillow warns, 20000 over the one at which it raises."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(side, side))
    message = refusal(path, model())
    assert "limit" in message
    assert "smaller" in message
    with warnings.catch_warnings(record=True) as printed:
        warnings.simplefilter("always")
        refusal(path, model())
    assert not printed


def test_pillows_limit_holds_too(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_claims(9_500, 9_500))
    assert "PIL.Image.MAX_IMAGE_PIXELS" in refusal(path, model(), max_pixels=10**9)


def test_the_limit_is_the_callers():
    assert preprocess(RGB, model(), max_pixels=31 * 23).shape == (1, 9, 13, 3)
    assert "raise max_pixels" in refusal(RGB, model(), max_pixels=31 * 23 - 1)
    with Image.open(RGB) as image:
        assert "raise max_pixels" in refusal(image, model(), max_pixels=31 * 23 - 1)
    assert "narrow" in refusal(np.zeros((1, 90_000), dtype=np.uint8), model(224, 224), crop=True, max_pixels=10**6)


def test_formats_can_be_fewer():
    assert open_image(RGB, formats=("JPEG", "PNG")).size == (23, 31)
    with pytest.raises(ImageError, match="expected JPEG, PNG"):
        open_image(DATA / "palette.gif", formats=("JPEG", "PNG"))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((0, 5, 3), dtype=np.uint8), "no pixels"),
        (np.zeros((5, 0), dtype=np.uint8), "no pixels"),
        (np.zeros((0, 9, 13, 3), dtype=np.uint8), "list is empty"),
        (np.zeros(7, dtype=np.uint8), "shape (7,)"),
        (np.zeros((5, 9, 13), dtype=np.uint8), "shape (5, 9, 13)"),
        (np.zeros((1, 1, 9, 13, 3), dtype=np.uint8), "shape (1, 1, 9, 13, 3)"),
        (np.zeros((9, 13, 4), dtype=np.uint8), "array[..., :3]"),
        (np.zeros((9, 13, 3), dtype=np.int64), "dtype int64"),
        (np.zeros((9, 13, 3), dtype=bool), "dtype bool"),
        (np.zeros((9, 13, 3), dtype=complex), "dtype complex128"),
        (np.array([["a"]]), "dtype <U1"),
        (np.full((9, 13, 3), 0.5), "multiply it by 255"),
        (np.full((9, 13, 3), -1.0), "0 to 255"),
        (np.full((9, 13, 3), 256.0), "0 to 255"),
        (np.where(np.arange(12).reshape(2, 2, 3) == 7, np.nan, 3.0), "nan at row 1, column 0, channel 1"),
        (np.where(np.arange(12).reshape(2, 2, 3) == 7, np.inf, 3.0), "inf at row 1, column 0, channel 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype}{value.shape}",
)
def test_bad_arrays(array, said):
    assert said in refusal(array, model())
    if array.ndim not in (4, 5):
        assert "image 1:" in refusal([picture(), array], model())


@pytest.mark.parametrize("thing", [None, 7, b"bytes", [None], [[1, 2]], [], {}])
def test_things_that_are_no_pictures(thing):
    refusal(thing, model())


def test_a_black_floating_picture_is_a_picture():
    assert (load_pixels(np.zeros((9, 13, 3)), model()) == 0).all()


def test_empty_pillow_image():
    assert "no pixels" in refusal(Image.new("RGB", (0, 4)), model())


def test_models_and_options_that_do_not_fit():
    assert "(7,)" in refusal(RGB, Model("vector", (7,), ()))
    assert "(9, 13, 2)" in refusal(RGB, model(channels=2))
    assert "3 channels" in refusal(RGB, model(channels=1))
    assert "caffe" in refusal(RGB, model(mode="Caffe"))
    assert "nearest" in refusal(RGB, model(), resample="cubic")
    assert "resize_to" in refusal(RGB, model(), crop=True, resize_to=8)


GOOD_FILES = [encoded(Image.fromarray(picture()).convert("P" if kind == "GIF" else "RGB"), kind) for kind in FORMATS]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data):
    """Whatever the bytes, there is a picture of the right shape or one ImageError."""
    content = bytearray(data.draw(st.sampled_from(GOOD_FILES)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.one_of(st.integers(0, min(63, len(content) - 1)), st.integers(0, len(content) - 1)))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    try:
        got = preprocess(io.BytesIO(bytes(content)), model(), exif=True, max_pixels=10**6)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert got.shape == (1, 9, 13, 3)
        assert np.isfinite(got).all()
