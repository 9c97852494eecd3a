"""The page in a real browser: from an image to heatmaps whose pixels and bits are the library's."""

import base64
import hashlib
import io
import json
import shutil

import h5py
import httpx
import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.images import display, load_pixels
from tests.serve.browser import chromium, origin
from tests.serve.servers import WEIGHTS, picture, remote

#: A class called so must never become an element.
HOSTILE = "<img src=x onerror=document.title='owned'>"
NAMES = ("cat", "dog", "golden_retriever", "hen", "owl", "newt", HOSTILE, "frog", "toad", "red fox")
DONE = """[...document.querySelectorAll('.card')].length > 0
    && [...document.querySelectorAll('.card')].every((c) => !c.hasAttribute('aria-busy') && c.querySelector('.sha').textContent)"""

#: Every card whose preset has a ledger shows it.
BALANCED = f"({DONE}) && !document.querySelector('.book[aria-busy]') && document.querySelectorAll('.book .chart, .book .alert').length > 0"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "named.h5"
    shutil.copy(WEIGHTS, path)
    with h5py.File(path, "a") as file:
        file.attrs["nplrp_classes"] = json.dumps([[f"n{i}", name] for i, name in enumerate(NAMES)])
    return path


@pytest.fixture(scope="module")
def model(weights):
    return nplrp.load(weights)


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def server(started, weights, tmp_path_factory):
    with remote(tmp_path_factory.mktemp("server"), weights=weights) as running:
        yield running


@pytest.fixture
def browser(started, server):
    """The page, freshly loaded; afterwards nothing was asked of elsewhere, and the console is clean but for what a test expects."""
    started.size(1280, 900)
    started.scheme("light")
    started.requests()
    started.complaints()
    started.expected = ()
    started.driver.get(f"{server.url}/")
    started.wait("document.querySelectorAll('#preset-list li').length > 0")
    started.first = [each.text for each in started.all(".card h3")]
    started.ends = started.find("#end").get_attribute("value")
    started.js("const end = document.getElementById('end'); end.value = 1; end.dispatchEvent(new Event('input', { bubbles: true }))")
    started.js("for (const box of document.querySelectorAll('#preset-list input:checked')) box.click()")  # without moving the focus
    for name in ("notebook", "zplus"):
        started.js("document.querySelector(`#preset-list input[value='${arguments[0]}']`).click()", name)
    yield started
    elsewhere = [url for url in started.requests() if url.startswith("http") and origin(url) != origin(server.url)]
    assert not elsewhere
    unexpected = [each for each in started.complaints() if not any(text in each for text in started.expected)]
    assert not unexpected
    assert started.driver.title.startswith("nplrp"), "text from outside became markup"


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a photo.png"
    path.write_bytes(picture(3))
    return path


def upload(browser, path):
    browser.find("#file").send_keys(str(path))


def compute(browser, path):
    upload(browser, path)
    browser.wait(DONE)


def choose(browser, *presets):
    """Compare exactly these."""
    for box in browser.all("#preset-list input:checked"):
        box.click()
    for name in presets:
        box = browser.find(f"#preset-list input[value='{name}']")
        browser.js("arguments[0].scrollIntoView({ block: 'center' })", box)
        box.click()


def card(name):
    return f".card[data-preset='{name}']"


def relevance(model, path, composite, target=None):
    return nplrp.explain(model, nplrp.preprocess(path, model), composite, target)


def coloured(browser, R, end=None, colours="blue-red"):
    """What a heatmap of relevance [H, W, C] looks like: RGB."""
    table = browser.module("./colours.js", "[...m.table(given[0])]", colours)
    table = np.array(table, np.uint8).reshape(-1, 3)
    summed = R.astype(np.float64).sum(axis=-1)
    scaled = (summed / (np.abs(summed).max() if end is None else end)).clip(-1, 1)
    return table[np.floor(scaled * 255 + 0.5).astype(int) + 255]


def heat(browser, name, shape):
    pixels = np.frombuffer(browser.canvas(f"{card(name)} .heat"), np.uint8).reshape(*shape[:2], 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]


def test_from_image_to_heatmap(browser, model, image):
    compute(browser, image)
    seen = np.frombuffer(browser.canvas("#preview"), np.uint8).reshape(32, 32, 4)[..., :3]
    assert (seen == display(load_pixels(image, model))[0]).all(), "the preview is what the network sees"
    e = relevance(model, image, "zplus")
    likeliest = e.labels(5)[0]
    assert [each.get_attribute("textContent") for each in browser.all("#top .name")] == [
        label.name.replace("_", " ") for label in likeliest
    ]
    widths = [float(each.value_of_css_property("width")[:-2]) for each in browser.all("#top .filled")]
    whole = float(browser.find("#top .bar").value_of_css_property("width")[:-2])
    assert np.allclose(widths, [label.score * whole for label in likeliest], atol=1)
    assert browser.find("#top input:checked").get_attribute("value") == str(likeliest[0].unit)
    for name in ("notebook", "zplus"):
        e = relevance(model, image, name)
        assert (heat(browser, name, e.relevance[0].shape) == coloured(browser, e.relevance[0])).all()
        assert browser.text(f"{card(name)} .sha") == hashlib.sha256(e.relevance.tobytes()).hexdigest()
        assert "these bytes" in browser.text(f"{card(name)} .downloads") and "not" not in browser.text(f"{card(name)} .downloads")


def test_ledger_has_every_layer(browser, model, image):
    compute(browser, image)
    browser.wait(BALANCED)
    e = relevance(model, image, "zplus")
    table = "#ledger-tables [data-preset='zplus']"
    browser.find(f"{table} summary").click()
    rows = browser.js(
        "return [...document.querySelectorAll(arguments[0])].map((row) => [...row.children].map((cell) => cell.textContent))",
        f"{table} tbody tr",
    )
    expected = e.ledger.as_rows()
    assert [row[0] for row in rows] == [row["layer"] for row in expected]
    for row, entry in zip(rows, expected, strict=True):
        shown = [float(text.replace("−", "-")) for text in row[1:8]]
        terms = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created", "residual")
        for value, term, digits in zip(shown, terms, (5, 5, 4, 3, 3, 3, 2), strict=True):
            assert value == float(f"{entry[term]:.{digits - 1}e}")
        assert row[9] == entry["rule"]
    assert len(browser.all(f"{card('zplus')} .chart g")) == len(expected)
    assert "arrives at the pixels" in browser.find(f"{card('zplus')} .chart").get_attribute("aria-label")


def test_another_class(browser, model, image):
    choose(browser, "epsilon")
    compute(browser, image)
    labels = relevance(model, image, "epsilon").labels(10)[0]
    browser.all("#top input")[2].click()
    browser.wait(f"document.querySelector('.about').textContent.includes(arguments[0]) && {DONE}", labels[2].name.replace("_", " "))
    R = relevance(model, image, "epsilon", labels[2].unit).relevance[0]
    assert (heat(browser, "epsilon", R.shape) == coloured(browser, R)).all()
    # one that isn't among the likeliest, by keyboard, found by its number
    from selenium.webdriver.common.keys import Keys

    search = browser.find("#class-search")
    search.send_keys(str(labels[9].unit), Keys.ENTER)
    browser.wait(f"document.querySelector('.about').textContent.includes(arguments[0]) && {DONE}", labels[9].name.replace("_", " "))
    R = relevance(model, image, "epsilon", labels[9].unit).relevance[0]
    assert (heat(browser, "epsilon", R.shape) == coloured(browser, R)).all()
    assert browser.find("#top input:checked").get_attribute("value") == str(labels[9].unit)
    search.send_keys("golden ret")
    assert [each.text.split("\n")[0] for each in browser.all("#class-list li")] == ["golden retriever"]
    search.send_keys(Keys.ESCAPE)
    assert not browser.find("#class-list").is_displayed()


def test_names_from_outside_are_only_text(browser, image):
    compute(browser, image)
    browser.find("#class-search").send_keys("onerror")
    option = browser.find("#class-list li span")
    assert option.get_attribute("textContent") == HOSTILE and not browser.all("#class-list img, #top img")
    browser.find("#class-list li").click()
    browser.wait(f"document.querySelector('.about').textContent.includes(arguments[0]) && {DONE}", HOSTILE)
    assert not browser.all("#top img, .card img")
    bad = image.with_name("<b>x.png")
    bad.write_bytes(picture(1))
    compute(browser, bad)
    assert "<b>x.png" in browser.text("#image-facts") and not browser.all("#image-facts b")


def test_four_presets_on_one_scale(browser, model, image):
    presets = ("zplus", "epsilon_plus", "lrp.sequential_preset_a", "gradient")
    compute(browser, image)
    choose(browser, *presets)
    browser.wait(f"document.querySelectorAll('.card').length === 4 && {DONE}")
    others = browser.all("#preset-list input:not(:checked)")
    assert others and not any(each.is_enabled() for each in others), "a fifth can't be chosen"
    assert "four" in browser.text("#preset-note")
    assert [each.text for each in browser.all(".card h3")] == list(presets)
    maps = {name: relevance(model, image, name).relevance[0] for name in presets}
    for name, R in maps.items():
        assert (heat(browser, name, R.shape) == coloured(browser, R)).all()
    browser.find("input[name='scale'][value='common']").click()
    end = max(np.abs(R.astype(float).sum(axis=-1)).max() for R in maps.values())
    for name, R in maps.items():
        assert (heat(browser, name, R.shape) == coloured(browser, R, end)).all()
    assert len({tuple(each.text for each in browser.all(f"{card(name)} .ticks span")) for name in presets}) == 1
    assert "no ledger" in browser.text(f"{card('gradient')} .book")
    browser.find(f"{card('zplus')} .remove").click()
    assert [each.text for each in browser.all(".card h3")] == list(presets[1:])
    assert browser.js("return document.activeElement.value") == "zplus", "the focus goes where it can be taken in again"


def test_view(browser, model, image):
    choose(browser, "epsilon")
    compute(browser, image)
    R = relevance(model, image, "epsilon").relevance[0]
    browser.find("#colours").send_keys("purple")
    assert (heat(browser, "epsilon", R.shape) == coloured(browser, R, colours="purple-orange")).all()
    browser.find("#end").send_keys("99.5")
    magnitudes = np.sort(np.abs(R.astype(float).sum(axis=-1)).ravel())
    end = magnitudes[int(np.ceil(0.995 * magnitudes.size)) - 1]
    assert (heat(browser, "epsilon", R.shape) == coloured(browser, R, end, "purple-orange")).all()
    assert browser.all(".ticks span")[4].text.startswith("≥")
    browser.js("const o = document.getElementById('opacity'); o.value = 40; o.dispatchEvent(new Event('input', {bubbles: true}))")
    assert browser.find(".heat").value_of_css_property("opacity") == "0.4"
    assert browser.text("#opacity-value") == "40 %"


def test_downloads(browser, model, image):
    choose(browser, "zplus")
    compute(browser, image)
    e = relevance(model, image, "zplus")
    name, content = browser.downloaded(browser.find(f"{card('zplus')} .downloads button:nth-of-type(2)"))
    label = e.labels(1)[0][0].name
    assert name.startswith("a-photo-zplus-") and name.endswith(".npy") and (label in name or label == HOSTILE)
    loaded = np.load(io.BytesIO(content), allow_pickle=False)
    assert content[:8] == b"\x93NUMPY\x01\x00" and loaded.dtype == np.float32 and loaded.shape == e.relevance.shape
    assert loaded.tobytes() == e.relevance.tobytes()
    assert loaded.flags.c_contiguous

    browser.js("const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input', {bubbles: true}))")
    name, content = browser.downloaded(browser.find(f"{card('zplus')} .downloads button"))
    assert name.endswith(".png")
    drawn = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    scale = 12  # 32 pixels to at least 360
    wanted = coloured(browser, e.relevance[0]).repeat(scale, 0).repeat(scale, 1)
    left, above = 24 + 32 * scale + 24, 24 + 92
    assert (drawn[above : above + 32 * scale, left : left + 32 * scale] == wanted).all()
    shown = display(load_pixels(image, model))[0].repeat(scale, 0).repeat(scale, 1)
    assert (drawn[above : above + 32 * scale, 24 : 24 + 32 * scale] == shown).all()
    assert (drawn[24:44] < 128).any(), "there is a title"

    choose(browser, "zplus", "epsilon")
    browser.wait(f"document.querySelectorAll('.card').length === 2 && {DONE}")
    _, several = browser.downloaded(browser.find("#save-all"))
    assert Image.open(io.BytesIO(several)).width == 24 + 3 * (32 * scale + 24)


def test_by_keyboard_alone(browser, model):
    from selenium.webdriver.common.keys import Keys

    def tab_to(selector):
        for _ in range(120):
            browser.press(Keys.TAB)
            seen, there = browser.js(
                """const e = document.activeElement, s = [e, e.closest('.button')].filter(Boolean).map((each) => getComputedStyle(each));
                return [s.some((each) => each.outlineStyle !== 'none' && parseFloat(each.outlineWidth) > 1), e.matches(arguments[0])]""",
                selector,
            )
            assert seen, "focus can be seen"
            if there:
                return
        pytest.fail(f"Tab doesn't lead to {selector}")

    tab_to("#sample")
    browser.press(Keys.ENTER)
    browser.wait(DONE)
    tab_to("#top input")
    browser.press(Keys.ARROW_DOWN)
    browser.wait(f"document.querySelectorAll('#top input')[1].checked && {DONE}")
    tab_to("#preset-filter")
    browser.press("layer flat")
    assert {each.text for each in browser.all("#preset-list li label") if each.is_displayed()} >= {"flat", "lrp.flat"}
    tab_to("#preset-list input[value='flat']")
    browser.press(Keys.SPACE)
    browser.wait(f"document.querySelectorAll('.card').length === 3 && {DONE}")
    tab_to(f"{card('zplus')} .heat")
    browser.press(Keys.HOME)
    first = browser.text(f"{card('zplus')} .readout")
    browser.press(Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_UP)
    unit = int(browser.find("#top input:checked").get_attribute("value"))
    x = nplrp.preprocess(io.BytesIO(sample(browser)), model)
    for name in ("zplus", "flat"):  # the cursor is in all heatmaps at once
        R = nplrp.explain(model, x, name, unit).relevance[0].astype(float).sum(axis=-1)
        if name == "zplus":
            row, column = np.unravel_index(np.argmax(np.abs(R)), R.shape)
            assert first.startswith(f"row {row}, column {column}: ") and "100 %" in first
            row, column = max(row - 2, 0), min(column + 1, 31)
        text = browser.text(f"{card(name)} .readout")
        assert text.startswith(f"row {row}, column {column}: ")
        value = float(text.split(": ")[1].split(" ")[0].replace("−", "-"))
        assert value == pytest.approx(R[row, column], rel=1e-3)
        assert text in browser.text("#spoken"), "and is told to screen readers"
    browser.press(Keys.ESCAPE)
    assert browser.text(f"{card('zplus')} .readout").startswith("strongest")
    tab_to(f"{card('zplus')} .downloads button")


def sample(browser):
    return httpx.get(browser.driver.current_url + "sample.png").content


def test_pointer_reads_a_pixel(browser, model, image):
    from selenium.webdriver.common.action_chains import ActionChains

    choose(browser, "zplus")
    compute(browser, image)
    R = relevance(model, image, "zplus").relevance[0].astype(float).sum(axis=-1)
    ActionChains(browser.driver).move_to_element_with_offset(browser.find(".heat"), 1, 1).perform()  # off its centre
    text = browser.text(".readout")
    assert text.startswith("row 16, column 16: ")
    assert float(text.split(": ")[1].split(" ")[0].replace("−", "-")) == pytest.approx(R[16, 16], rel=1e-3)


def test_a_text_called_png(browser, image, tmp_path):
    browser.expected = ("400 (Bad Request)",)
    bad = tmp_path / "notes.png"
    bad.write_text("These are no pixels.")
    compute(browser, image)
    upload(browser, bad)
    browser.wait("!document.getElementById('image-alert').hidden")
    alert = browser.find("#image-alert")
    assert alert.get_attribute("role") == "alert"
    assert "expected JPEG, PNG" in alert.text and alert.text.endswith(".")
    assert not browser.all("#top input") and not browser.text(".sha"), "nothing of the image before is left"
    compute(browser, image)
    assert not alert.is_displayed()


def test_drop_and_paste(browser, model, image):
    send = """const [b64, kind] = arguments;
        const bytes = Uint8Array.from(atob(b64), (c) => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], `${kind}.png`, { type: 'image/png' }));
        const how = { bubbles: true, cancelable: true };
        document.body.dispatchEvent(kind === 'drop' ? new DragEvent('drop', { ...how, dataTransfer: data })
                                                    : new ClipboardEvent('paste', { ...how, clipboardData: data }));"""
    for kind, seed in (("drop", 5), ("paste", 6)):
        content = picture(seed)
        browser.js(send, base64.b64encode(content).decode(), kind)
        browser.wait(f"document.getElementById('image-facts').textContent.startsWith(arguments[0]) && {DONE}", f"{kind}.png")
        R = nplrp.explain(model, nplrp.preprocess(io.BytesIO(content), model), "zplus").relevance[0]
        assert (heat(browser, "zplus", R.shape) == coloured(browser, R)).all()


def test_busy_failing_and_given_up(browser, image):
    """The server's 429 is waited for, its errors are shown in the card, and requests that nobody wants any more are aborted."""
    choose(browser, "zplus")
    browser.js(
        """window.calls = []; window.real = window.fetch;
        window.script = [];
        window.fetch = (path, options) => {
          if (!String(path).endsWith(':explain') || JSON.parse(options.body).parameters.ledger) return real(path, options);
          calls.push(options.signal);
          const next = script.shift();
          if (next === 'hang') return new Promise((_, no) => options.signal.addEventListener('abort', () => no(options.signal.reason)));
          if (!next) return real(path, options);
          return Promise.resolve(new Response(JSON.stringify({ error: next[1] }), { status: next[0], headers: { 'Retry-After': '1' } }));
        };
        script.push([429, 'full'], [500, 'the server has a defect <b>!</b>']);"""
    )
    upload(browser, image)
    browser.wait("document.querySelector('.busy span').textContent.includes('asking again in 1 s')")
    browser.wait("!document.querySelector('.card .alert').hidden")
    assert browser.text(".card .alert") == "The server has a defect <b>!</b>."
    assert browser.find(".card .alert").get_attribute("role") == "alert"
    browser.js("script.push('hang')")
    browser.find(".card p > button").click()
    browser.wait("calls.length === 3")
    assert browser.find(".card progress").is_displayed()
    browser.all("#top input")[1].click()
    browser.wait(DONE)
    assert browser.js("return calls.map((signal) => signal.aborted)") == [False, False, True, False]


#: Notes down what is asked for, and lets requests for ledgers wait or fail as `script` says.
SCRIPTED = """window.asked = []; window.real = window.fetch; window.script = [];
    window.fetch = (path, options) => {
      if (!String(path).endsWith(':explain')) return real(path, options);
      const { composite, ledger } = JSON.parse(options.body).parameters;
      asked.push([composite, ledger]);
      const next = ledger && script.shift();
      if (next === 'hang') return new Promise((_, no) => options.signal.addEventListener('abort', () => no(options.signal.reason)));
      if (next) return Promise.resolve(new Response(JSON.stringify({ error: next }), { status: 500 }));
      return real(path, options);
    };"""


def test_heatmaps_come_before_ledgers(browser, model, image):
    browser.js(SCRIPTED + "script.push('hang')")
    compute(browser, image)  # all heatmaps are there, though a ledger never comes
    browser.wait("asked.length === 3")
    assert browser.js("return asked") == [["notebook", False], ["zplus", False], ["notebook", True]]
    assert all("being computed" in each.text for each in browser.all(".book")) and not browser.find("#ledgers").is_displayed()
    browser.all("#top input")[1].click()  # gives the ledger up: heatmaps first
    name = relevance(model, image, "zplus").labels(2)[0][1].name.replace("_", " ")
    browser.wait(f"[...document.querySelectorAll('.about')].some((each) => each.textContent.includes(arguments[0])) && {BALANCED}", name)
    assert browser.js("return asked.slice(3)") == [["notebook", False], ["zplus", False], ["notebook", True], ["zplus", True]]
    assert len(browser.all(".book .chart")) == 2 and browser.find("#ledgers").is_displayed()


def test_gradients_are_not_asked_for_a_ledger(browser, image):
    choose(browser, "gradient", "zplus")
    browser.js(SCRIPTED)
    compute(browser, image)
    browser.wait(BALANCED)
    assert browser.js("return asked") == [["gradient", False], ["zplus", False], ["zplus", True]]
    assert "no ledger" in browser.text(f"{card('gradient')} .book")


def test_a_ledger_that_fails_is_said_and_asked_for_again(browser, image):
    browser.js(SCRIPTED + "script.push('no <b>luck</b>')")
    choose(browser, "zplus")
    compute(browser, image)
    browser.wait("document.querySelector('.book .alert')")
    assert browser.text(".book .alert") == "No <b>luck</b>." and browser.find(".card .heat").is_displayed()
    assert browser.js("return asked.length") == 2, "it isn't asked for again unless somebody says so"
    browser.find(".book button").click()
    browser.wait("document.querySelector('.book .chart')")
    assert not browser.all(".book .alert")


def test_it_begins_with_presets_that_people_can_read(browser):
    assert browser.first == ["epsilon_plus", "epsilon_plus_flat"]
    assert browser.ends == "0.995", "a few pixels don't take all colours"
    assert browser.find("#preset-list h3").text == "To begin with"
    labels = [each.text for each in browser.all("#preset-list label")]
    assert labels[:2] == browser.first and len(labels) == len(set(labels)) == len(nplrp.rules.composites.COMPOSITES)


def test_the_keyboard_skips_the_list_of_presets(browser):
    from selenium.webdriver.common.keys import Keys

    browser.find("#preset-filter").send_keys(Keys.TAB)
    link = browser.find(".skip.here")
    assert browser.js("return document.activeElement === arguments[0]", link) and link.is_displayed()
    assert "presets" in link.text and browser.faint() == []
    browser.press(Keys.ENTER)
    browser.press(Keys.TAB)
    assert browser.js("return document.activeElement.id") == "opacity"


@pytest.mark.parametrize("moved", [False, True])
def test_a_phone_scrolls_to_the_first_result(browser, image, moved):
    browser.size(390, 844)
    if moved:  # whoever scrolls himself is left alone
        browser.js(
            """window.real = window.fetch; window.fetch = (path, options) => {
              if (String(path).endsWith(':explain')) window.dispatchEvent(new Event('touchmove'));
              return real(path, options); };"""
        )
    compute(browser, image)
    if moved:
        assert browser.js("return scrollY") == 0
        return
    browser.wait("Math.abs(document.querySelector('.card').getBoundingClientRect().top) < 20")
    browser.size(1280, 900)  # side by side there is nothing to scroll to
    browser.js("scrollTo(0, 0)")
    compute(browser, image)
    assert browser.js("return scrollY") == 0


def test_phone(browser, image):
    browser.size(360, 740)
    compute(browser, image)
    choose(browser, "zplus", "lrp.sequential_preset_b_flat_until_idx", "epsilon_alpha2_beta1_flat", "montavon_vgg16")
    browser.wait(f"document.querySelectorAll('.card').length === 4 && {BALANCED}")
    for each in browser.all("#ledger-tables details:not([open]) summary"):
        each.click()
    assert browser.js("return document.documentElement.scrollWidth") == 360
    browser.driver.get(browser.driver.current_url + "rules.html")
    assert browser.js("return document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_controls_have_names(browser, image, scheme):
    browser.scheme(scheme)
    compute(browser, image)
    browser.wait(BALANCED)
    assert browser.faint() == []
    controls = browser.controls()
    assert len(controls) > 100 and all(name for _, name in controls)
    assert ("application", "Heatmap of zplus: arrow keys read relevance") in controls


def test_colours_are_told_apart_by_everyone(browser):
    """Equal amounts for and against a class differ, by eyes that lack one kind of cone too, and neither is the darker."""
    # Viénot, Brettel and Mollon 1999 (protanopia, deuteranopia), on linear sRGB; tritanopia as Machado, Oliveira and Fernandes 2009.
    eyes = {
        "all cones": np.eye(3),
        "protanopia": np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
        "deuteranopia": np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
        "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
    }
    for name in browser.module("./colours.js", "Object.keys(m.MAPS)"):
        table = np.array(browser.module("./colours.js", "[...m.table(given[0])]", name)).reshape(-1, 3)
        assert len(table) == 511 and table[255].max() - table[255].min() <= 6, "0 is grey"
        for who, seen in eyes.items():
            lab = oklab(np.clip(linear(table) @ seen.T, 0, 1))
            distance = np.linalg.norm(lab[:255][::-1] - lab[256:], axis=1)
            assert (distance[127:] > 0.1).all(), (name, who, distance[127:].min())
            if who == "all cones":
                assert np.abs(lab[:255][::-1, 0] - lab[256:, 0]).max() < 0.02
                steps = np.diff(lab[255:, 0])
                assert (steps <= 0.004).all() or (steps >= -0.004).all(), "from 0 outward it darkens, or lightens, all the way"


def linear(srgb):
    value = srgb / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    lms = np.cbrt(
        rgb
        @ np.array(
            [
                [0.4122214708, 0.5363325363, 0.0514459929],
                [0.2119034982, 0.6806995451, 0.1073969566],
                [0.0883024619, 0.2817188376, 0.6299787005],
            ]
        ).T
    )
    return (
        lms
        @ np.array(
            [
                [0.2104542553, 0.793617785, -0.0040720468],
                [1.9779984951, -2.428592205, 0.4505937099],
                [0.0259040371, 0.7827717662, -0.808675766],
            ]
        ).T
    )
