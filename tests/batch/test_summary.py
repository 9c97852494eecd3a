"""The page and the sheet about a run: their numbers are those of its maps, what is missing is said, and names are only ever text."""

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.batch import summary as summaries
from nplrp.batch.results import Results
from nplrp.batch.summary import page, summarise
from nplrp.batch.thumbnails import SIDE, contact_sheet, palette, small_map, steps_of
from nplrp.cli import main
from nplrp.errors import OutputError
from nplrp.model import Preprocessing, chain
from tests.batch.made import BAD_NAMES, HOSTILE, made, named, not_utf8, pictures, unreadable
from tests.networks import conv, random_kernel
from tests.serve.browser import chromium

pytestmark = pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")


@pytest.fixture(scope="module")
def model():
    return named()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("batch")


@pytest.fixture(scope="module")
def images(folder):
    found = pictures(folder / "pics", 20, BAD_NAMES)
    return [*found, not_utf8(folder / "pics", found[0]), unreadable(folder / "pics")]


@pytest.fixture(scope="module")
def results(folder, model, images):
    return made(folder / "run", model, images, ("notebook", "zplus", "gradient"), "top-2", size=6, ledger=True, pictures=True)


@pytest.fixture(scope="module")
def content(results):
    return summarise(results).content


def decoded(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_maps(results, content, model, images):
    readable = images[:-1]
    x = nplrp.preprocess(readable, model)
    assert content["done"] == 21 and content["images"] == 22
    for k, name in enumerate(results.job.composites):
        e = nplrp.explain(model, x, name, "top-2")
        first, share = content["composites"][k], e.relevance.sum(axis=(1, 2, 3), dtype=float)
        assert first["maps"] == 42
        if name == "gradient":
            assert first["shares"] is None and first["layers"] is None
            continue
        shares = e.ledger.end / e.ledger.start
        quantiles = np.quantile(shares, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        assert first["shares"]["quantiles"] == pytest.approx(quantiles.tolist(), rel=1e-5)
        assert sum(first["shares"]["counts"]) == 42 and first["shares"]["nothing"] == 0
        rows = e.ledger.as_rows()
        assert [row["layer"] for row in first["layers"]] == [row["layer"] for row in rows]
        for row, expected in zip(first["layers"], rows, strict=True):
            assert row["rule"] == expected["rule"]
            for term in ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created"):
                assert row[term] == pytest.approx(expected[term] / 42, rel=1e-6, abs=1e-9)
            assert abs(row["residual"]) < 1e-5
        assert first["layers"][-1]["edges"][""] == pytest.approx(share.mean(), rel=1e-5)


def test_rows_are_the_images(content, model, images):
    e = nplrp.explain(model, nplrp.preprocess(images[:3], model), "zplus", "top-2")
    for i, labels in enumerate(e.labels(2)):
        row = content["rows"][i]
        assert (row["i"], row["n"], row["c"]) == (i, images[i], labels[0].unit)
        assert row["s"] == pytest.approx(labels[0].score)
        assert [found[0] for found in row["m"][1]] == [label.unit for label in labels]
        for found, R in zip(row["m"][1], e.relevance[2 * i :], strict=False):
            assert found[2] == pytest.approx(R.sum(dtype=float), rel=1e-5)
            assert (decoded(found[3]) == palette()[steps_of(small_map(R))]).all()
    assert content["rows"][20]["n"].endswith("not\\udcffutf8.png") and "w" not in content["rows"][20]
    assert content["failed"]["count"] == 1 and content["failed"]["listed"][0][0] == images[-1]


def test_mean_maps_are_means(content, model, images):
    e = nplrp.explain(model, nplrp.preprocess(images[:-1], model), "zplus", "top-2")
    targets = np.asarray(e.targets)
    assert [each["n"] for each in content["means"]] == sorted(np.bincount(targets)[np.unique(targets)].tolist(), reverse=True)
    for each in content["means"]:
        mean = e.relevance[targets == each["c"]].sum(axis=-1).mean(axis=0)
        shown = decoded(each["m"][1]).astype(int)
        assert np.abs(shown - palette()[steps_of(mean)]).max() <= 12, "a step of the palette at most"


def test_outliers_are_the_largest(content, model, images):
    e = nplrp.explain(model, nplrp.preprocess(images[:-1], model), "zplus", "top-2")
    lost = (e.ledger.start - e.ledger.end) / np.abs(e.ledger.start)
    bias = np.stack([entry.bias for entry in e.ledger.entries])
    worst = np.abs(bias).argmax(axis=0)
    share = bias[worst, np.arange(42)] / np.abs(e.ledger.start)
    lists = {(each["what"], each["composite"]): each for each in content["outliers"]}
    assert list(lists) == [("loss", 0), ("bias", 0), ("loss", 1), ("bias", 1), ("confidence", None)]
    for what, values in (("loss", lost), ("bias", share)):
        found = lists[what, 1]
        pairs = np.abs(values).reshape(-1, 2)
        order = np.argsort(-pairs.max(axis=1), kind="stable")[:8]
        assert [content["rows"][row]["i"] for row in found["rows"]] == order.tolist()
        assert found["nth"] == pairs[order].argmax(axis=1).tolist()
        maps = 2 * order + found["nth"]
        assert found["values"] == pytest.approx(values[maps].tolist(), rel=1e-4)
    names = [entry.layer for entry in e.ledger.entries]
    maps = 2 * np.array(lists["bias", 1]["rows"]) + lists["bias", 1]["nth"]
    assert lists["bias", 1]["layers"] == [names[worst[m]] for m in maps]
    scores = np.array([labels[0].score for labels in e.labels(1)])
    assert lists["confidence", None]["values"] == pytest.approx(np.sort(scores)[:8].tolist())


def test_a_histogram_leaves_out_the_ends_and_counts_them():
    shares = np.concatenate([np.linspace(0.9, 1.1, 998), [-50.0, 50.0]])
    found = summaries._distribution(shares)
    assert found["from"] == pytest.approx(0.9, abs=0.01) and found["to"] == pytest.approx(1.1, abs=0.01)
    assert sum(found["counts"]) + sum(found["outside"]) == 1000 and min(found["outside"]) >= 1
    assert sum(summaries._distribution(np.ones(3))["counts"]) == 3
    assert sum(summaries._distribution(np.zeros(3))["counts"]) == 3
    assert summaries._distribution(np.array([]))["quantiles"] is None


# --- what is kept, and of which models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kept", "most"), [("float16", 1), ("reduced", 0)])
def test_less_is_kept(tmp_path, model, images, kept, most):
    whole = summarise(made(tmp_path / "whole", model, images[:3])).content
    less = summarise(made(tmp_path / kept, model, images[:3], kept=kept)).content
    for a, b in zip(whole["rows"], less["rows"], strict=True):
        assert a["m"][0][0][:2] == b["m"][0][0][:2]
        places = [np.asarray(Image.open(io.BytesIO(base64.b64decode(row["m"][0][0][3])))).astype(int) for row in (a, b)]
        assert np.abs(places[0] - places[1]).max() <= most


def grey(outputs):
    rng = np.random.default_rng(0)
    return chain((12, 10, 1), [conv("a", random_kernel(rng, 3, 3, 1, outputs))], "grey", preprocessing=Preprocessing("unit"))


def test_outputs_that_are_no_vector(tmp_path, images):
    results = made(tmp_path / "run", grey(2), images[:3], ("epsilon",), start="all")
    found = summarise(results).content
    assert [row["c"] for row in found["rows"]] == [None] * 3 and [row["s"] for row in found["rows"]] == [None] * 3
    assert [each["what"] for each in found["outliers"]] == ["loss"]
    assert found["classes"] and decoded(found["rows"][0]["p"]).shape == (12, 10, 3)
    assert "summary" in page(summarise(results))


# --- what is missing -----------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_finished(results, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(results.folder, copy)
    (copy / "shards" / "000001.h5").unlink()
    found = summarise(Results.open(copy)).content
    assert found["shards"] == {"missing": 1, "of": 4, "damaged": []} and found["done"] == 15
    shard = copy / "shards" / "000002.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert main(["summary", str(copy), "-q"]) == 1
    told = capsys.readouterr()
    assert told.out.startswith("9 images, 1 failed, 1 of 4 shards aren't there yet; wrote ") and str(shard) in told.err
    for each in (copy / "shards").iterdir():
        each.unlink()
    assert main(["summary", str(copy)]) == 2
    told = capsys.readouterr()
    assert "no shard is there yet; run nplrp batch again" in told.err and len(told.err.splitlines()) == 1


def test_nothing_could_be_explained(tmp_path, model):
    results = made(tmp_path / "run", model, [unreadable(tmp_path)], ledger=True)
    found = summarise(results)
    assert found.content["done"] == 0 and found.content["failed"]["count"] == 1 and found.content["outliers"] != []
    sheet, shown = contact_sheet(found.cells, found.heading)
    assert shown == 0 and sheet.shape[1] >= 480


def test_pictures_that_are_gone_or_changed(tmp_path, model):
    images = pictures(tmp_path / "pics", 3)
    drawn = made(tmp_path / "drawn", model, images, pictures=True)
    plain = made(tmp_path / "plain", model, images)
    before = summarise(drawn).content["rows"]
    Path(images[0]).unlink()
    Path(images[1]).write_bytes(Path(images[2]).read_bytes())
    for results, there in ((drawn, True), (plain, False)):
        rows = summarise(results).content["rows"]
        assert [row.get("w") for row in rows] == ["gone", "changed", None]
        assert [row.get("p") for row in rows] == ([row["p"] for row in before] if there else [None, None, before[2]["p"]])
        assert all(row["m"][0][0][3] for row in rows), "maps are there all the same"


def test_thumbnails_are_as_many_as_asked_for(results, content):
    few = summarise(results, 2).content
    drawn = [row["i"] for row in few["rows"] if row["m"][0][0][3]]
    outliers = {few["rows"][row]["i"] for each in few["outliers"] for row in each["rows"]}
    assert set(drawn) == {0} | outliers, "the last image couldn't be explained"
    for row, other in zip(few["rows"], content["rows"], strict=True):
        assert row["i"] not in drawn or row == other, "an outlier's maps are those of its shard"
    assert few["composites"] == content["composites"] and few["means"] == content["means"]
    none = summarise(results, 0)
    assert {cell.name for cell in none.cells} == {
        none.content["rows"][row]["n"] for each in none.content["outliers"] for row in each["rows"]
    }


def test_rows_are_bounded(results, monkeypatch):
    monkeypatch.setattr(summaries, "ROWS", 12)
    monkeypatch.setattr(summaries, "OUTLIERS", 2)
    monkeypatch.setattr(summaries, "FAILURES", 0)
    monkeypatch.setattr(summaries, "MEANS", 1)
    found = summarise(results).content
    assert found["kept"] == len(found["rows"]) <= 12 and found["done"] == 21
    assert len(found["means"]) == 1 and found["failed"] == {"count": 1, "listed": []}
    assert all(0 <= row < len(found["rows"]) for each in found["outliers"] for row in each["rows"])


# --- the files -----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.texts.append("")
        self.open = True

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.texts and self.open:
            self.texts[-1] += data


def test_the_page_has_everything_and_lets_nothing_in(results):
    text = page(summarise(results))
    template = (Path(summaries.__file__).parent / "page" / "summary.html").read_text("utf-8")
    parsed, plain = Tags(text), Tags(template)
    assert [tag for tag, _ in parsed.found] == [tag for tag, _ in plain.found], "text from outside became markup"
    policy = next(attributes["content"] for _, attributes in parsed.found if attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    inside = [(tag, attributes, body) for (tag, attributes), body in zip(parsed.found, parsed.texts, strict=True)]
    for tag, attributes, body in inside:
        assert not any(key.startswith("on") or key in ("style", "src") for key in attributes)
        assert attributes.get("href", "#").startswith("#")
        if tag == "style" or attributes.get("type") == "module":
            digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy
            assert not re.findall(r"^\s*(?:import|export)\b|@import|url\(|innerHTML|outerHTML|document\.write|eval\(", body, re.MULTILINE)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    data = json.loads(next(body for _, attributes, body in inside if attributes.get("id") == "data"))
    assert data["classes"]["3"][1] == HOSTILE
    assert "<script>document" not in text and HOSTILE not in text


def test_a_page_that_can_not_be_written_leaves_what_was_there(results, tmp_path, monkeypatch, capsys):
    target = tmp_path / "page.html"
    target.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["summary", str(results.folder), "-o", str(target), "-q"]) == 2
    told = capsys.readouterr().err
    assert "No space left on device" in told and len(told.splitlines()) == 1
    assert target.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "x.pdf"], "give a name that ends in .html"),
        (["--png", "x.jpg"], "give a name that ends in .png"),
        (["--images", "-1"], "expected a number of images, 0 or more"),
    ],
)
def test_what_is_asked_for_wrongly(results, arguments, told, capsys):
    assert main(["summary", str(results.folder), *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


def test_no_run(tmp_path, capsys):
    assert main(["summary", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_command_line(results, tmp_path, capsys):
    assert main(["summary", str(results.folder), "-o", str(tmp_path / "p.html"), "--png", str(tmp_path / "s.png"), "-q"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("21 images, 1 failed; wrote ") and "(21 images)" in told.out and told.err == ""
    assert (tmp_path / "p.html").read_text("utf-8").startswith("<!doctype html>")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[0] <= 1900


def test_small_maps_are_means_over_areas():
    R = np.random.default_rng(0).normal(size=(2 * SIDE, 2 * SIDE, 3)).astype(np.float32)
    expected = R.sum(axis=-1, dtype=float).reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))
    assert small_map(R) == pytest.approx(expected, abs=1e-5)
    assert (small_map(R[:50, :40, 0]) == R[:50, :40, 0]).all(), "small ones stay"
    assert small_map(R[:, :40]).shape == (SIDE, 20)
    assert (palette()[steps_of(np.zeros((2, 2)))] == palette()[31]).all()
    assert palette()[31].min() > 240 and palette()[0][2] > palette()[0][0] and palette()[62][0] > palette()[62][2]


def test_a_sheet_has_an_end(results):
    cell = summarise(results).cells[0]
    sheet, shown = contact_sheet([cell] * 2000, "many")
    assert sheet.shape[0] <= 16_000 and shown < 2000


def test_errors_name_the_cause(tmp_path):
    with pytest.raises(OutputError, match="holds no run"):
        Results.open(tmp_path)


# --- in a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(results, folder):
    path = folder / "summary.html"
    path.write_text(page(summarise(results)), "utf-8")
    return path


@pytest.fixture
def browser(started, file):
    """The page, freshly loaded; afterwards nothing else was asked for, and the console is clean."""
    started.size(1280, 900)
    started.scheme("light")
    started.requests()
    started.complaints()
    started.driver.get(file.as_uri())
    started.wait("document.querySelectorAll('.shot').length > 0")
    yield started
    assert not [url for url in started.requests() if not url.startswith(("data:", "chrome:", file.as_uri()))]
    assert started.complaints() == []
    assert started.driver.title.startswith("nplrp"), "text from outside became markup"


def shown(browser):
    return [int(each.get_attribute("data-place")) for each in browser.all(".shot")]


def enter(browser, selector, text):
    field = browser.find(selector)
    field.clear()
    field.send_keys(text)


def choose(browser, selector, value):
    browser.js(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))", selector, value
    )


def test_search(browser, content):
    assert browser.text("#count") == "21 of 21 images."
    assert shown(browser) == list(range(21))
    enter(browser, "#search", "IMG01")
    expected = [row["i"] for row in content["rows"] if "img01" in row["n"]]
    assert shown(browser) == expected and browser.text("#count") == f"{len(expected)} of 21 images."
    enter(browser, "#search", "golden retr")
    retrievers = [row["i"] for row in content["rows"] if 2 in {row["c"], *(found[0] for maps in row["m"] for found in maps)}]
    assert shown(browser) == retrievers
    enter(browser, "#search", "golden img00")
    assert shown(browser) == [i for i in retrievers if "img00" in content["rows"][i]["n"]]
    enter(browser, "#search", "nowhere")
    assert shown(browser) == [] and browser.text("#count") == "No image fits: search for less, or choose all classes."


def test_class_and_order(browser, content):
    unit = content["means"][0]["c"]
    of_class = [row for row in content["rows"] if unit in {row["c"], *(found[0] for maps in row["m"] for found in maps)}]
    choose(browser, "#class", str(unit))
    assert shown(browser) == [row["i"] for row in of_class]
    choose(browser, "#class", "")
    choose(browser, "#sort", "least")
    assert shown(browser) == [row["i"] for row in sorted(content["rows"], key=lambda row: row["s"])]
    choose(browser, "#sort", "most")
    assert shown(browser)[0] == max(content["rows"], key=lambda row: row["s"])["i"]
    choose(browser, "#sort", "loss")

    def worst(row):
        return max(abs(1 - found[2] / found[1]) for maps in row["m"][:2] for found in maps)

    assert shown(browser) == [row["i"] for row in sorted(content["rows"], key=worst, reverse=True)]
    choose(browser, "#sort", "name")
    assert shown(browser) == [row["i"] for row in sorted(content["rows"], key=lambda row: row["n"])]


def test_a_class_leads_to_its_images(browser, content):
    enter(browser, "#search", "nowhere")
    button = browser.find("#means button")
    browser.js("arguments[0].click()", button)
    assert browser.js("return document.getElementById('class').value") == str(content["means"][0]["c"])
    assert browser.js("return document.getElementById('search').value") == "" and shown(browser)


def test_with_the_keyboard(browser, content):
    from selenium.webdriver.common.keys import Keys

    browser.press("/")
    assert browser.js("return document.activeElement.id") == "search"
    browser.press("img007", Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)
    dialog = browser.find("#large")
    assert dialog.is_displayed() and browser.text("#large-name").endswith("img007.png")
    assert browser.text("#large-place") == "1 of 1"
    browser.press(Keys.ESCAPE)
    assert not dialog.is_displayed()
    choose(browser, "#search", "")
    browser.js("document.querySelectorAll('.shot .open')[3].click()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.text("#large-name") == content["rows"][4]["n"] and browser.text("#large-place") == "5 of 21"
    browser.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert browser.text("#large-name") == content["rows"][2]["n"]
    assert len(browser.all("#large-body figure")) == 7 and "the largest bias is" in browser.text("#large-body")
    browser.find("#close").click()
    assert not dialog.is_displayed()


def test_outliers_lead_to_their_maps(browser, content):
    lists = browser.all("#outlier-lists .panel")
    assert len(lists) == len(content["outliers"]) == 5
    first = browser.find("#outlier-lists button")
    row = content["rows"][content["outliers"][0]["rows"][0]]
    assert first.get_attribute("title") == row["n"]
    browser.js("arguments[0].click()", first)
    assert browser.text("#large-name") == row["n"] and browser.text("#large-place") == "1 of 8"


def test_statistics_are_told(browser, content):
    told = browser.text("#relevance")
    assert "A gradient hands no relevance down" in told
    median = 100 * content["composites"][1]["shares"]["quantiles"][3]
    said = re.findall(r"the median is ([\d.]+) %", told)
    assert float(said[1]) == pytest.approx(median, abs=0.1)
    bars = browser.all("#relevance .panel:nth-child(2) .count")
    assert len(bars) == sum(count > 0 for count in content["composites"][1]["shares"]["counts"])
    layers = browser.all("#relevance .panel:nth-child(2) tbody tr")
    assert len(layers) == len(content["composites"][1]["layers"])
    assert len(browser.all("#failures tbody tr")) == 1 and "broken <b>.png" in browser.text("#failures")
    assert content["about"]["weights_sha256"] in browser.text("#facts")
    assert browser.text(".notes").startswith("1 image couldn’t be explained")


def test_phone(browser):
    browser.size(360, 740)
    for each in browser.all("details:not([open]) summary"):
        browser.js("arguments[0].click()", each)
    assert browser.js("return document.documentElement.scrollWidth") == 360
    browser.js("document.querySelector('.shot .open').click()")
    assert browser.js("const d = document.getElementById('large'); return d.scrollWidth <= d.clientWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_controls_have_names(browser, scheme):
    browser.scheme(scheme)
    for each in browser.all("details:not([open]) summary"):
        browser.js("arguments[0].click()", each)
    assert browser.faint() == []
    controls = browser.controls()
    assert len(controls) > 60 and all(name.strip() for _, name in controls), [each for each in controls if not each[1].strip()]


def test_thousands_come_in_pages(started, results, tmp_path, monkeypatch):
    few = summarise(results, 2)
    rows = few.content["rows"]
    many = [dict(rows[i % len(rows)], i=i, n=f"img{i}.png") for i in range(200)]
    content = dict(few.content, rows=many, done=5000, images=5030, folders="")
    path = tmp_path / "many.html"
    path.write_text(page(summaries.Summary(results, content, [])), "utf-8")
    started.driver.get(path.as_uri())
    started.wait("document.querySelectorAll('.shot').length > 0")
    drawn = sum(bool(row["m"][0][0][3]) for row in many)
    assert started.text("#count") == f"{drawn} of 200 images; {200 - drawn} more without a thumbnail."
    started.find("#thumbnails").click()
    assert started.text("#count") == "200 of 200 images." and len(shown(started)) == 60
    started.find("#more").click()
    assert len(shown(started)) == 120 and started.text("#more") == "Show 60 more of 80"
    assert started.js("return document.activeElement.closest('.shot').dataset.place") == "60"
    notes = started.text(".notes")
    assert "The run isn’t finished: 29 images of 5,030" in notes and "lists 21 of 5,000 images" in notes
    assert started.complaints() == []


def test_colours_are_those_of_the_servers_page(started, file):
    script = (Path(nplrp.__file__).parent / "serve" / "page" / "colours.js").read_text("utf-8").replace("export ", "")
    started.driver.get("about:blank")
    table = np.array(started.js(f"{script}; return [...table('blue-red')]")).reshape(-1, 3)
    at = np.linspace(0, 510, 63)
    assert np.abs(table[np.rint(at).astype(int)] - palette().astype(int)).max() <= 4
    assert (table[[0, 255, 510]] == palette()[[0, 31, 62]]).all()
