"""What Jupyter shows: pictures and tables of anything, with names from anybody's files, and what can be done with them."""

import dataclasses
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
import nplrp.evaluate
import nplrp.golden
from nplrp.drawing import Drawing
from nplrp.errors import ImageError, OutputError
from nplrp.heatmaps import Picture, Scale, figure, heatmap, panel, pixels_of, scale_of, sheet, tinted
from nplrp.ledger import TERMS, Ledger
from nplrp.model import Layer, build
from nplrp.shown import MOST, maps_of, of_image
from nplrp.tables import bar, table
from nplrp.targets import Label
from tests.networks import images, small_vgg

EVIL = "<script>alert('x')</script>&\x1b[2J\nname"


@pytest.fixture(scope="module")
def model():
    return dataclasses.replace(small_vgg(), preprocessing=nplrp.Preprocessing("unit"))


@pytest.fixture(scope="module")
def e(model):
    return nplrp.explain(model, np.abs(images(0, 5, model.input_shape)).clip(0, 1), "zplus", target="top-2", dtype="float64")


def parsed(html):
    """Return tags and text of HTML whose tags are closed in their order."""

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.tags, self.text = [], [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append((tag, dict(attrs)))
            if tag not in ("img", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.text.append(data)

    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def read(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


# --- explanations --------------------------------------------------------------------------------------------------------------


def test_an_explanation_is_a_sequence_of_its_images(e):
    assert len(e) == 5
    for i, one in enumerate(e):
        for name in ("x", "relevance", "output", "logits", "targets"):
            np.testing.assert_array_equal(getattr(one, name), getattr(e.image(i), name))
        np.testing.assert_array_equal(one.relevance, e.relevance[2 * i : 2 * i + 2])
        np.testing.assert_array_equal(e[i - 5].relevance, one.relevance)
    for some in (slice(1, 3), slice(None), slice(-2, None), slice(3, 1), slice(4, 99)):
        assert len(e[some]) == len(range(5)[some])
        np.testing.assert_array_equal(e[some].x, e.x[some])
        np.testing.assert_array_equal(
            e[some].relevance, e.relevance.reshape(5, 2, *e.relevance.shape[1:])[some].reshape(e[some].relevance.shape)
        )
    for place in (5, -6):
        with pytest.raises(IndexError, match="holds 5"):
            e[place]
    with pytest.raises(IndexError, match="steps of 2"):
        e[::2]


def test_a_parts_ledger_is_the_wholes(model, e):
    alone = nplrp.explain(model, e.x[3:4], "zplus", target="top-2", dtype="float64").books
    for ledger in (e[3].books, dataclasses.replace(e)[3].books, (e.books, e)[1][3].books):
        for one, other in zip(ledger.entries, alone.entries, strict=True):
            np.testing.assert_array_equal(one.relevance_out, other.relevance_out)


def test_an_explanation_shows_pictures_labels_and_its_ledger(e):
    one = parsed(e[0]._repr_html_())
    assert [tag for tag, _ in one.tags].count("img") == 1
    assert "Where the relevance went" in one.text and "largest outputs" in one.text
    assert "block1_conv1" in one.text
    assert all(label.plain in one.text for label in e.labels(5)[0])
    png = read(e[0]._repr_png_())
    assert png.shape[1] == 3 * 330 + 30  # the picture and two maps
    batch = parsed(dataclasses.replace(e)._repr_html_())
    assert [tag for tag, _ in batch.tags].count("img") == 4
    assert "and 1 more images: e[i] shows one, e[i:j].plot() some" in batch.text
    assert "Where the relevance went" not in batch.text  # it takes a pass of its own


def test_a_saved_explanation_shows_the_same(e, model, tmp_path):
    e[1].save(tmp_path / "a.npz", ledger=True)
    saved = nplrp.load_explanation(tmp_path / "a.npz")
    assert saved._repr_html_() == e[1]._repr_html_()
    assert saved._repr_png_() == e[1]._repr_png_()
    assert repr(saved).count("\n") == 0
    assert len(saved) == 1


@pytest.mark.parametrize("shape", [(6,), (5, 3)])
def test_what_is_no_picture_is_shown_as_numbers(shape):
    rng = np.random.default_rng(0)
    flat = [Layer("flat", "flatten")] if len(shape) > 1 else []
    arrays = {"kernel": rng.normal(size=(int(np.prod(shape)), 3)).astype(np.float32)}
    model = build(shape, [*flat, Layer("out", "dense", arrays=arrays)])
    e = nplrp.explain(model, rng.normal(size=(1, *shape)).astype(np.float32), "epsilon", target=1)
    html = parsed(e._repr_html_())
    assert ("feature 0" if len(shape) == 1 else "step 0") in html.text and "img" not in dict(html.tags)
    assert e._repr_png_() is None
    heights = [patch.get_height() for patch in e.plot().axes[0].patches]
    np.testing.assert_allclose(heights, e.relevance.reshape(shape[0], -1).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "unit", "none", "127.5,64"])
def test_the_picture_is_what_the_input_was_made_of(mode):
    small = dataclasses.replace(small_vgg(), preprocessing=nplrp.Preprocessing(mode))
    pixels = np.random.default_rng(1).integers(0, 256, (1, *small.input_shape), dtype=np.uint8)
    e = nplrp.explain(small, nplrp.preprocess(pixels, small), "zplus")
    np.testing.assert_array_equal(e.plot().axes[0].images[0].get_array(), pixels[0])


def test_channels_first_are_drawn_as_channels_last_are(e):
    """Keras 2 and 3 take them as (C, H, W), and relevance lies as they do."""
    turned = dataclasses.replace(e, x=np.moveaxis(e.x, 3, 1), relevance=np.moveaxis(e.relevance, 3, 1))
    for i in range(len(e)):
        np.testing.assert_array_equal(of_image(turned, i), of_image(e, i))
        for (name, found), (expected, wanted) in zip(maps_of(turned, i).items(), maps_of(e, i).items(), strict=True):
            assert name == expected
            np.testing.assert_array_equal(found, wanted)
    assert turned._repr_png_() == e._repr_png_()


def test_a_position_stands_once_above_a_picture():
    assert Label(44, "(1,2,0)", "output (1, 2, 0)", 0.25, "value").heading == "output (1, 2, 0), value 0.25"
    assert Label(44, "n01440764", "tench", 0.25).heading == "tench (n01440764), 0.2500"


def test_a_plot_has_a_row_for_every_image(e):
    drawn = e.plot()
    assert isinstance(drawn, Drawing)
    assert len([axes for axes in drawn.axes if axes.images]) == 5 * 3
    own = np.zeros((5, 4, 6, 3), np.uint8)
    assert e.plot(own, title="t").axes[0].images[0].get_array().shape == (4, 6, 3)
    assert e[0].plot(own[0]).axes[0].images[0].get_array().shape == (4, 6, 3)
    many = nplrp.explain(e.model, np.concatenate([e.x] * 4), "zplus")
    for call, said in (
        (many.plot, rf"explanation\[:{MOST}\].plot\(\)"),
        (many[:0].plot, "holds no image"),
        (lambda: e.plot(own[0]), "one picture for 5 images"),
        (lambda: e.plot(own[:2]), "2 pictures for 5 images"),
        (lambda: e.plot(cmap="rainbows"), "rainbows"),
        (lambda: e.plot(clip=0), "clip is 0"),
    ):
        with pytest.raises(ImageError, match=said):
            call()
    assert "holds no" not in many[:0]._repr_html_()  # shown, and not an error


def test_gradients_and_inner_layers_are_shown(model, e):
    gradient = nplrp.explain(model, e.x[:1], "gradient")
    assert "a gradient conserves nothing" in gradient._repr_html_()
    inner = nplrp.explain(model, e.x[:1], "zplus", until="block1_pool")
    assert "relevance of block1_pool" in inner._repr_html_()
    assert inner.plot().axes[1].images[0].get_array().shape == inner.relevance.shape[1:3]
    begun = nplrp.explain(model, e.x[:1], "zplus", start="all")
    assert len(parsed(begun._repr_html_()).text) > 20


def test_names_from_files_are_escaped(model, e):
    layers = [dataclasses.replace(layer, name=f"{layer.name}{EVIL}", inputs=()) for layer in model]
    odd = build(model.input_shape, layers, EVIL, classes=tuple((EVIL, EVIL) for _ in range(model.output_shape[0])))
    found = nplrp.explain(odd, e.x[:1], "zplus", target=0)
    for shown in (odd, found, found.plan, found.ledger):
        html = shown._repr_html_()
        assert "<script" not in html and "\x1b" not in html
        assert {tag for tag, _ in parsed(html).tags} <= {"table", "caption", "b", "thead", "tbody", "tr", "th", "td", "div", "small", "img"}
        assert "\n" not in repr(shown)


# --- models, plans, ledgers ----------------------------------------------------------------------------------------------------


def test_tables_say_what_print_says(model, e):
    for shown in (model, e.plan, e.books):
        cells = [" ".join(text.split()) for text in parsed(shown._repr_html_()).text]
        for line in str(shown).splitlines()[1:-1]:
            assert line.split()[0] in cells
        assert len(repr(shown)) < 200 and "\n" not in repr(shown)
    assert repr(Ledger(())) == "Ledger(no layers)"
    assert parsed(Ledger(())._repr_html_())


def test_a_table_ends_somewhere():
    html = table(("a",), [(i,) for i in range(1000)])
    assert html.count("<tr>") == 301 and "700 more rows" in html


def test_bars_by_hand():
    assert "left:60px;width:30px" in bar(1.0, 2.0)
    assert "left:30px;width:30px" in bar(-1.0, 2.0)
    assert "width:0px" in bar(float("nan"), 2.0) and "width:0px" in bar(1.0, 0.0) and "width:60px" in bar(9.0, 2.0)


def test_to_frame_is_the_ledger(e):
    pandas = pytest.importorskip("pandas")
    frame, rows = e.books.to_frame(), e.books.as_rows()
    assert list(frame.index) == [row["layer"] for row in rows]
    for term in (*TERMS, "residual", "rule"):
        assert frame[term].tolist() == [row[term] for row in rows]
    each = e.books.to_frame(maps=True)
    assert each.index.names == ["map", "layer"] and len(each) == 10 * len(frame)
    for m in (0, 7):
        assert each.loc[m, "relevance_out"].tolist() == [entry.relevance_out[m] for entry in e.books.entries]
    assert isinstance(frame, pandas.DataFrame) and Ledger(()).to_frame(maps=True).empty


def test_to_frame_without_pandas_says_so(e, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OutputError, match="pip install pandas"):
        e.books.to_frame()


# --- pictures ------------------------------------------------------------------------------------------------------------------


def test_figures_show_and_save_themselves(e, tmp_path):
    R, shown = e.relevance[:1], np.zeros((8, 8, 3), np.uint8)
    for i, drawn in enumerate((figure(shown, heatmap(R)[0], "a", "b", 1.0), panel(shown, {"R": R}), panel(None, {"R": R}), e.plot())):
        drawn.save(tmp_path / f"{i}.png")
        assert (tmp_path / f"{i}.png").read_bytes() == drawn._repr_png_()
    picture = figure(shown, heatmap(R)[0], "a", "b", 1.0)
    assert isinstance(picture, Picture)
    for part in (picture[0], picture[..., :2], picture.mean(axis=0), picture / 255):
        assert not isinstance(part, Picture) or part._repr_png_() is None


def test_jupyter_gets_png_and_html_without_pyplot():
    """What IPython asks an object for, in a process that never chose how matplotlib draws."""
    code = """
import sys, numpy as np
from IPython.core.formatters import DisplayFormatter
import nplrp
from tests.networks import images, small_vgg
model = small_vgg()
e = nplrp.explain(model, images(1, 1, model.input_shape), "zplus")
formats = DisplayFormatter().format
assert {"image/png", "text/html", "text/plain"} <= set(formats(e)[0]), formats(e)[0].keys()
assert "image/png" in formats(e.plot())[0]
assert "image/png" in formats(nplrp.figure(np.zeros((4, 4, 3)), np.zeros((4, 4, 3)), "a", "b", 1.0))[0]
assert all("text/html" in formats(each)[0] for each in (model, e.plan, e.books))
assert "matplotlib.pyplot" not in sys.modules
"""
    pytest.importorskip("IPython")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_scales_by_hand():
    R = np.array([[4.0, -2.0, 1.0, 0.0]])
    assert scale_of(R) == Scale(-4.0, 4.0, "seismic", False)
    assert scale_of(R).said == ("-4", "0", "4") and scale_of(R).at(R).tolist() == [[1.0, -0.5, 0.25, 0.0]]
    cut = scale_of(R, clip=50)  # of 0, 1, 2, 4
    assert cut == Scale(-1.5, 1.5, "seismic", True)
    assert cut.said == ("\u2264 -1.5", "0", "\u2265 1.5") and cut.at(R).tolist() == [[1.0, -1.0, 2 / 3, 0.0]]
    assert scale_of(R * 0).said == ("", "0 everywhere", "") and (scale_of(R * 0).at(R * 0) == 0).all()
    even = np.array([[2.0, 3.0, 4.0]])  # of one sign, and all of a size
    assert scale_of(even) == Scale(2.0, 4.0, "viridis", False)
    assert scale_of(even).at(even).tolist() == [[-1.0, 0.0, 1.0]] and scale_of(even).said == ("2", "", "4")
    assert scale_of(-even) == Scale(-4.0, -2.0, "viridis", False)
    assert scale_of(even, "PuOr") == Scale(-4.0, 4.0, "PuOr", False)  # who asks for colours gets them around 0
    assert scale_of(even - 3).centred
    assert scale_of(np.full((1, 3), 2.0)).centred  # nothing to tell apart
    assert scale_of(np.array([[0.0, 0.0, 1.0]]), clip=50).high == 1.0  # half of it is 0
    assert Scale(1.0, 1.0 + 1e-6, "viridis", False).said == ("1", "", "1.000001")


@pytest.mark.parametrize("clip", [0, -1, 100.1, float("nan"), "99", None, True])
def test_percentiles_that_there_are_not(clip):
    with pytest.raises(ImageError, match="clip is"):
        scale_of(np.ones((2, 2)), clip=clip)


def test_an_overlay_shows_the_picture_where_there_is_no_relevance():
    pixels, behind = np.array([[0.0, 1.0], [-1.0, 0.25]]), np.full((2, 2, 3), 100, np.uint8)
    laid = tinted(pixels, scale_of(pixels), behind)
    grey, colours = 0.25 + 0.75 * 100 / 255, tinted(pixels, scale_of(pixels))
    np.testing.assert_allclose(laid[0, 0], grey)
    np.testing.assert_allclose(laid[0, 1], colours[0, 1])
    np.testing.assert_allclose(laid[1, 0], colours[1, 0])
    np.testing.assert_allclose(laid[1, 1], (grey + colours[1, 1]) / 2)
    with pytest.raises(ImageError, match="no picture to lay a map over"):
        sheet(None, {"R": pixels[..., np.newaxis]}, overlay=True)


def test_a_sheet_shows_what_a_panel_shows():
    """The map's own colours, at its own size times a whole number, in both."""
    R = np.random.default_rng(0).normal(size=(10, 10, 3))
    drawn, plotted = sheet(np.zeros((10, 10, 3)), {"R": R}, clip=90), panel(np.zeros((10, 10, 3)), {"R": R}, clip=90)
    tile = drawn[-60 - 300 : -60, 360:660]
    expected = np.rint(255 * tinted(pixels_of(R), scale_of(pixels_of(R), clip=90))).astype(np.uint8)
    np.testing.assert_array_equal(tile[15::30, 15::30], expected)
    mesh = plotted.axes[1].images[0]
    assert np.abs(mesh.to_rgba(mesh.get_array(), bytes=True)[..., :3].astype(int) - expected).max() <= 1
    labels = [text.get_text() for text in plotted.axes[2].get_xticklabels()]
    assert tuple(labels) == scale_of(pixels_of(R), clip=90).said


@pytest.mark.parametrize("title", ["dog", "one of many kinds of dogs, " * 20, "x" * 500, "line\n" * 5, "犬 🐶"])
@pytest.mark.parametrize("shape", [(20, 20), (60, 20), (20, 60), (300, 1), (1, 300)])
@pytest.mark.parametrize("maps", [1, 3])
def test_nothing_of_a_sheet_is_cut_off(title, shape, maps):
    R, dark = np.random.default_rng(0).normal(size=(*shape, 3)), np.zeros((*shape, 3))
    drawn = sheet(dark, {f"{i} {title}": R * 10.0 ** (-9 * i) for i in range(maps)}, title)
    ink = (drawn != 255).any(axis=2)
    assert not ink[:5].any() and not ink[-5:].any() and not ink[:, :4].any() and not ink[:, -4:].any()
    assert drawn.shape[1] == max(30 + 330 * (maps + 1), 600)
    rows = np.flatnonzero(ink[:, 30:330].all(axis=1) if shape[0] <= shape[1] else ink[:, 30:330].any(axis=1))
    assert len(rows)  # the picture is there, below the names


@pytest.mark.parametrize(
    "R",
    [np.full((1, 6, 6, 3), 1e-4), np.random.default_rng(0).random((1, 6, 6, 3)) * 0.02, np.random.default_rng(0).normal(size=(1, 6, 6, 3))],
)
def test_relevance_is_not_taken_for_a_picture(R, tmp_path):
    with pytest.raises(ImageError, match=r"nplrp\.heatmap\(relevance\)\[i\], or explanation\.plot\(\)") as refused:
        nplrp.save_png(R[0], tmp_path / "a.png")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())
    nplrp.save_png(nplrp.heatmap(R)[0], tmp_path / "a.png")
    nplrp.save_png(np.zeros((4, 4, 3)), tmp_path / "black.png")  # a picture may be black
    nplrp.save_png(np.rint(255 * np.full((4, 4, 3), 0.01)).astype(np.uint8), tmp_path / "dark.png")


def test_every_colour_map_of_matplotlib_can_be_drawn():
    import matplotlib

    R, seen = np.random.default_rng(0).normal(size=(4, 4, 3)), set()
    for name in list(matplotlib.colormaps):
        seen.add(sheet(None, {"R": R}, cmap=name).tobytes())
    assert len(seen) > 100


@pytest.mark.parametrize("package", [nplrp, nplrp.golden, nplrp.evaluate], ids=lambda package: package.__name__)
def test_public_names_are_told_to_type_checkers(package):
    """The imports for type checkers, the table and `__all__` are the same."""
    block = Path(package.__file__).read_text("utf-8").partition("if TYPE_CHECKING:")[2].partition("\n\n")[0]
    found = {
        name: module.removeprefix(f"{package.__name__}.")
        for module, names in re.findall(r"from (nplrp[\w.]*) import \(?([^()\n]+)", re.sub(r"\(\s+", "(", re.sub(r",\s+", ", ", block)))
        for name in re.findall(r"\w+", names)
    }
    assert found == package._PUBLIC
    assert sorted(package.__all__) == sorted(package._PUBLIC)
    assert all(getattr(package, name) is not None for name in found)
