"""Relevance becomes the document's colours, figures are drawn without a display, and files are written whole or not at all."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from nplrp.errors import ImageError, NumericsError, OutputError
from nplrp.heatmaps import figure, heatmap, panel, project, save_png

ORACLE = Path(__file__).parent / "data" / "oracle"


def relevance(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape or (2, 6, 8, 3))


def pixels(height=20, width=20):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(path):
    with Image.open(path) as image:
        return np.asarray(image), image.info


def texts(fig):
    """Draw, and return every text that can be seen."""
    FigureCanvasAgg(fig).draw()
    return [text for text in fig.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]


# --- the document's numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [32, 64])
def test_equals_the_notebook(bits):
    oracle = np.load(ORACLE / f"notebook_small32_float{bits}.npz")
    projected = project(oracle["lrp"], normalize="notebook")
    coloured = heatmap(oracle["lrp"], normalize="notebook")
    assert projected.dtype == coloured.dtype == np.float64
    np.testing.assert_allclose(projected, oracle["projected"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(coloured, oracle["heatmap"], rtol=0, atol=1e-12)


def test_equals_project_image():
    quirks = np.load(ORACLE / "notebook_quirks.npz")
    got = project(quirks["proj_in"][np.newaxis, ..., np.newaxis], normalize="notebook")
    np.testing.assert_allclose(got[0], quirks["proj_out"], rtol=0, atol=1e-12)


def as_the_document(image):
    """`project_image` written with loops, or None where its broadcast fails."""
    maxima = [max(abs(v) for v in row) for row in image]
    used = [i for i, m in enumerate(maxima) if m != 0]
    if len(used) not in (0, 1, len(image[0])):
        return None
    done = [list(row) for row in image]
    for i in used:
        for j in range(len(image[0])):
            done[i][j] /= maxima[used[0] if len(used) == 1 else used[j]]
    return np.array([[min(max((v + 1) / 2, 0), 1) for v in row] for row in done])


@settings(deadline=None, max_examples=100)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    zeros=st.sets(st.integers(0, 4)),
    seed=st.integers(0, 99),
)
def test_notebook_at_every_shape(size, zeros, seed):
    image = relevance(*size, seed=seed)
    image[[i for i in zeros if i < size[0]]] = 0
    expected = as_the_document(image.tolist())
    if expected is None:
        with pytest.raises(ImageError, match=r"image 0.*normalize='image'"):
            project(image[np.newaxis, ..., np.newaxis], normalize="notebook")
    else:
        np.testing.assert_allclose(project(image[np.newaxis, ..., np.newaxis], normalize="notebook")[0], expected, rtol=0, atol=1e-15)


# --- one maximum per image ---------------------------------------------------------------------------------------------------


def test_by_hand():
    """Channel sums 4, -2, 0, 1: divided by 4 they are 1, -1/2, 0, 1/4."""
    R = np.array([[[[1, 3], [-1, -1]], [[2, -2], [0.5, 0.5]]]])
    assert project(R).tolist() == [[[1.0, 0.25], [0.5, 0.625]]]
    assert project(R, output_range=(-1, 1)).tolist() == [[[1.0, -0.5], [0.0, 0.25]]]
    assert project(R, input_is_positive_only=True).tolist() == [[[1.0, 0.0], [0.0, 0.25]]]
    assert project(R, absmax=2).tolist() == [[[1.0, 0.0], [0.5, 0.75]]]
    assert project(R, absmax=8).tolist() == [[[0.75, 0.375], [0.5, 0.5625]]]
    assert project(R, normalize="notebook", absmax=8).tolist() == [[[0.75, 0.375], [0.5, 0.5625]]]
    assert project(np.repeat(R, 2, axis=0), absmax=np.array([2, 8])).tolist() == [project(R, absmax=m)[0].tolist() for m in (2, 8)]


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 4),
    dtype=st.sampled_from([np.float32, np.float64]),
    scale=st.sampled_from([1e-300, 1e-30, 1.0, 1e30]),
    seed=st.integers(0, 99),
)
def test_laws(shape, dtype, scale, seed):
    R = (relevance(*shape, seed=seed) * scale).astype(dtype)
    projected = project(R)
    assert projected.shape == shape[:3]
    assert projected.min() >= 0
    assert projected.max() <= 1
    for one, image in zip(projected, R, strict=True):
        total = image.sum(axis=-1, dtype=np.float64)
        np.testing.assert_array_equal(project(image[np.newaxis])[0], one)  # a batch is its images
        if total.any():
            assert max(one.max(), 1 - one.min()) == 1  # the strongest is at an end
            np.testing.assert_array_equal(one > 0.5, total / np.abs(total).max() > 1e-16)  # 0 is the middle
    np.testing.assert_allclose(project(-R), 1 - projected, rtol=0, atol=1e-15)  # turning the sign mirrors it
    np.testing.assert_allclose(project(R * dtype(4)), projected, rtol=0, atol=1e-15)  # a factor doesn't matter
    assert heatmap(R).shape == (*shape[:3], 3)


@pytest.mark.parametrize("normalize", ["image", "notebook"])
def test_a_map_of_zeros_is_the_middle(normalize):
    R = relevance(3, 6, 6, 3)
    R[1] = 0
    assert (project(R, normalize)[1] == 0.5).all()
    assert (project(R, normalize, input_is_positive_only=True)[1] == 0).all()
    np.testing.assert_array_equal(heatmap(R, normalize=normalize)[1], np.broadcast_to(matplotlib.colormaps["rainbow"](0.5)[:3], (6, 6, 3)))


@pytest.mark.parametrize("cmap", ["rainbow", "seismic", "viridis"])
def test_colours_are_matplotlibs(cmap):
    R = relevance()
    coloured = heatmap(R, cmap)
    assert coloured.dtype == np.float64
    row, column = np.unravel_index(np.abs(R[0].sum(axis=-1)).argmax(), (6, 8))
    end = 1.0 if R[0].sum(axis=-1)[row, column] > 0 else 0.0
    np.testing.assert_array_equal(coloured[0, row, column], matplotlib.colormaps[cmap](end)[:3])
    np.testing.assert_array_equal(coloured, matplotlib.colormaps[cmap](project(R))[..., :3])


def test_the_input_is_not_changed():
    R = relevance(1, 6, 6, 3)
    before = R.copy()
    for normalize in ("image", "notebook"):
        heatmap(R, normalize=normalize)
        panel(pixels(), {"R": R})
    np.testing.assert_array_equal(R, before)
    mono = R[..., :1].copy()  # the sum of one channel must not be the input itself
    project(mono, normalize="notebook")
    np.testing.assert_array_equal(mono, before[..., :1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(value):
    R = relevance()
    R[1, 2, 3, 0] = value
    for draw in (project, heatmap, lambda R: panel(pixels(), {"R": R[1]})):
        with pytest.raises(NumericsError, match="row 2, column 3"):
            draw(R)


def test_sums_that_overflow():
    with pytest.raises(NumericsError, match="summed"), np.errstate(over="ignore"):
        project(np.full((1, 2, 2, 3), 1e308))
    assert (project(np.full((1, 2, 2, 3), 3e38, dtype=np.float32)) == 1).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"relevance": relevance(6, 8, 3)}, r"relevance\[np.newaxis\]"),
        ({"relevance": relevance(6, 8)}, r"\(N, H, W, C\)"),
        ({"relevance": relevance(0, 6, 8, 3)}, "none of them 0"),
        ({"relevance": np.zeros((1, 2, 2, 3), dtype=int)}, "int64"),
        ({"cmap": "rainbows"}, "rainbows"),
        ({"normalize": "batch"}, "image, notebook"),
        ({"absmax": 0}, "positive"),
        ({"absmax": np.nan}, "positive"),
        ({"absmax": np.ones(3)}, "2 images"),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(ImageError, match=said) as caught:
        heatmap(**{"relevance": relevance(), **options})
    assert "\n" not in str(caught.value)


# --- figures -----------------------------------------------------------------------------------------------------------------


def ink(picture):
    """Return which rows and columns of a figure aren't white."""
    dark = (picture != 255).any(axis=2)
    return dark.any(axis=1), dark.any(axis=0)


def runs(marked):
    """Return the beginnings and ends of what is marked."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marked.astype(int), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def test_the_documents_figure():
    image, colours = np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 0.5)
    image[:10] = 100
    fig = figure(image, colours, "n02099601", "golden_retriever", 0.87654)
    assert (fig.shape, fig.dtype) == ((600, 1200, 3), np.uint8)
    rows, _ = ink(fig)
    *lines, pictures = runs(rows)
    assert len(lines) == 3
    _, columns = ink(fig[slice(*pictures)])
    left, right = runs(columns)
    assert left[1] - left[0] == right[1] - right[0] == pictures[1] - pictures[0] == 423
    assert left[0] == 1200 - right[1] + 30  # matplotlib's margins, as in the document
    shown = fig[slice(*pictures)]
    assert (shown[:200, slice(*left)] == 100).all()
    assert (shown[-200:, slice(*left)] == 0).all()
    assert (shown[:, slice(*right)] == 128).all()


def test_a_heatmap_is_smooth_and_a_coarse_picture_is_not():
    checks = np.indices((20, 20)).sum(axis=0)[..., np.newaxis] % 2 * np.array([1.0, 1.0, 1.0])
    fig = figure(checks, checks, "a", "b", 1.0)
    left, right = fig[110:530, 160:560], fig[110:530, 670:1070]
    assert set(np.unique(left)) == {0, 255}
    assert len(np.unique(right)) > 100


def test_what_is_written_above():
    one, other = (figure(pixels(), pixels(), "n1", "dog", score)[:100] for score in (0.87654, 0.87644))
    same, different = figure(pixels(), pixels(), "n1", "dog", 0.8765)[:100], figure(pixels(), pixels(), "n1", "cat", 0.8765)[:100]
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one != different).any()


@pytest.mark.parametrize("description", ["dog", "one of many kinds of dogs, " * 20, "x" * 500, "W" * 99, "line\n" * 30])
@pytest.mark.parametrize("shape", [(20, 20), (60, 20), (20, 60), (300, 1)])
def test_no_line_is_cut_off_or_covered(description, shape):
    fig = figure(pixels(*shape) // 2, pixels(*shape) // 2, "n02099601", description, 0.5)
    rows, columns = ink(fig)
    assert not rows[:8].any()
    assert not columns[:10].any()
    assert not columns[-10:].any()
    *lines, pictures = runs(rows)
    assert 3 <= len(lines) <= 12
    assert max(end - begin for begin, end in lines) < 25
    assert pictures[1] <= 535
    assert pictures[1] - pictures[0] > 100


@pytest.mark.parametrize("description", ["dog", "one of many kinds of dogs, " * 20, "x" * 500])
@pytest.mark.parametrize("shape", [(20, 20), (60, 20), (20, 60)])
def test_nothing_of_a_panel_is_cut_off_or_covered(description, shape):
    R = relevance(*shape, 3)
    drawn = [
        panel(pixels(*shape), {"notebook": R, description: R * 1e-9, "zeros": R * 0, "z+": R * 1e9}, description),
        panel(pixels(*shape), {"notebook": R[np.newaxis]}, description),
    ]
    for fig in drawn:
        within = fig.bbox.padded(1)
        boxes = [text.get_window_extent() for text in texts(fig)]
        boxes += [axes.get_window_extent() for axes in fig.axes]
        assert all(within.x0 <= box.x0 and box.x1 <= within.x1 and within.y0 <= box.y0 and box.y1 <= within.y1 for box in boxes)
        for i, one in enumerate(boxes):
            assert not any(one.padded(-1).overlaps(other.padded(-1)) for other in boxes[:i])


def test_names_are_not_read_as_mathematics():
    R = relevance(1, 4, 4, 3)
    name = r"$\price$"
    assert sum(name in text.get_text() for text in texts(panel(pixels(), {name: R}, name))) >= 1


def test_panel_shows_each_maps_own_scale():
    R = np.zeros((4, 4, 3))
    R[1, 2] = [1, 1, 0.5]
    fig = panel(pixels(4, 4), {"notebook": R, "zplus": -R * 1e-4, "nothing": R * 0}, "dog (n1), 0.5")
    said = [text.get_text() for text in texts(fig)]
    assert {"dog (n1), 0.5", "notebook", "zplus", "nothing", "0 everywhere"} <= set(said)
    assert {"-2.5", "2.5", "-0.00025", "0.00025"} <= set(said)
    maps = [axes.images[0] for axes in fig.axes if axes.images][1:]
    assert [float(m.get_array()[1, 2]) for m in maps] == [1, -1, 0]
    for m in maps:
        assert (m.norm.vmin, m.norm.vmax) == (-1, 1)
        np.testing.assert_allclose(m.to_rgba(0.0)[:3], 1, atol=0.01)  # zero is white
    with pytest.raises(ImageError, match="at least one"):
        panel(pixels(), {})
    with pytest.raises(ImageError, match="rainbows"):
        panel(pixels(), {"R": R}, cmap="rainbows")


def test_drawing_leaves_pyplot_and_displays_alone(tmp_path):
    code = """
import sys
import numpy as np
from nplrp.heatmaps import figure, heatmap, panel, save_png
R = np.ones((1, 4, 4, 3))
save_png(figure(R[0], heatmap(R)[0], "a", "b", 1.0), sys.argv[1])
assert "matplotlib" not in sys.modules
save_png(panel(R[0], {"R": R}), sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules and "numba" not in sys.modules
"""
    environment = {**os.environ, "DISPLAY": "", "MPLBACKEND": "tkagg"}
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "default::DeprecationWarning", "-c", code, tmp_path / "a.png"], env=environment, check=True
    )
    assert (tmp_path / "a.png").exists()


# --- files -------------------------------------------------------------------------------------------------------------------


def test_png_holds_the_pixels(tmp_path):
    save_png(pixels(), tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png")[0], pixels())
    save_png((pixels() / 255.0 + [0.001, 0, -0.001]).clip(0, 1), tmp_path / "B.PNG")
    np.testing.assert_array_equal(read(tmp_path / "B.PNG")[0], pixels())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["B.PNG", "a.png"]


def test_equal_pictures_are_equal_bytes(tmp_path):
    R = relevance(1, 20, 20, 3)
    for name in ("a.png", "b.png"):
        save_png(panel(pixels(), {"R": R}, "title"), tmp_path / name)
        np.testing.assert_array_equal(figure(pixels(), heatmap(R)[0], "a", "b", 1), figure(pixels(), heatmap(R)[0], "a", "b", 1))
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert not read(tmp_path / "a.png")[1]
    assert b"matplotlib" not in content.lower()


def test_saving_leaves_the_figures_canvas(tmp_path):
    fig = panel(pixels(), {"R": relevance(20, 20, 3)})
    before = fig.canvas
    save_png(fig, tmp_path / "a.png")
    assert fig.canvas is before
    assert read(tmp_path / "a.png")[0].shape == (*(fig.get_size_inches() * 100).round().astype(int)[::-1], 3)


def test_new_files_have_the_usual_permissions_and_links_stay(tmp_path):
    (tmp_path / "plain").touch()
    target = tmp_path / "target.png"
    (tmp_path / "link.png").symlink_to(target)
    save_png(pixels(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.txt", "png"])
def test_unknown_suffix(name, tmp_path):
    with pytest.raises(OutputError, match=r"\.png"):
        save_png(pixels(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(OutputError, match="can't be written") as caught:
            save_png(pixels(200, 200), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.png", tmp_path / "missing" / "a.png", tmp_path / "file" / "a.png", tmp_path / ("x" * 300 + ".png")):
        with pytest.raises(OutputError) as caught:
            save_png(pixels(), path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((1, 4, 4, 3)),
        np.zeros((4, 4, 4)),
        np.zeros((4, 4, 3), int),
        np.full((4, 4, 3), 1.5),
        np.full((4, 4, 3), np.nan),
    ],
    ids=["grey", "batch", "rgba", "int", "above 1", "nan"],
)
def test_arrays_that_are_no_pictures(array, tmp_path):
    for draw in (
        lambda: save_png(array, tmp_path / "a.png"),
        lambda: figure(array, pixels(), "a", "b", 1.0),
        lambda: panel(array, {"R": relevance()}),
    ):
        with pytest.raises(ImageError, match=r"expected a picture \(H, W, 3\)"):
            draw()
    assert not list(tmp_path.iterdir())
