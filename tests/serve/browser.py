"""A real browser, headless: what a reader of the page sees and does."""

import base64
import json
import os
import shutil
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from tests.serve.servers import PATIENCE

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
)
#: Set where the browser must be there, as in CI.
REQUIRED = "NPLRP_REQUIRE_BROWSER"


def _programs():
    """Return Chromium's path and its driver's, or skip the test."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (browser and driver):
        missing = "Chromium" if not browser else "chromedriver"
        reason = f"{missing} isn't installed (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{reason}, and {REQUIRED} is set")
        pytest.skip(reason)
    return browser, driver


@contextmanager
def chromium(folder, *more):
    """A `Browser` with a new profile, and more flags; what it downloads is in folder/downloads."""
    browser, driver = _programs()
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, *more, f"--user-data-dir={folder / 'profile'}", "--window-size=1280,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        started.set_script_timeout(PATIENCE)
        started.command_executor.client_config.timeout = 3 * PATIENCE
        yield Browser(started, folder / "downloads")
    finally:
        started.quit()


class Browser:
    """Selenium's driver with what the tests need.

    Parameters
    ----------
    driver : selenium.webdriver.Chrome
    downloads : path
    """

    def __init__(self, driver, downloads):
        self.driver, self.downloads = driver, downloads
        downloads.mkdir()
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def cdp(self, command, **parameters):
        """Run a command of Chrome's own protocol."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def size(self, width, height):
        """Set the viewport."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def scheme(self, name):
        """Prefer "light" or "dark"."""
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def js(self, code, *arguments):
        """Run the body of a function."""
        return self.driver.execute_script(code, *arguments)

    def module(self, path, code, *arguments):
        """Run an expression of `m`, a module of the page."""
        script = f"const given = [...arguments]; const done = given.pop(); import('{path}').then((m) => done({code}))"
        return self.driver.execute_async_script(script, *arguments)

    def find(self, selector):
        """Return one element."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        """Return elements."""
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        """Return an element's text."""
        return self.find(selector).get_attribute("textContent").strip()

    def wait(self, condition, *arguments):
        """Wait until a JavaScript expression holds."""
        until = time.monotonic() + PATIENCE
        while not self.js(f"return {condition}", *arguments):
            assert time.monotonic() < until, f"{condition}: not within {PATIENCE} s; the page says {self.text('body')[:2000]}"
            time.sleep(0.02)

    def press(self, *keys):
        """Press keys where the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def canvas(self, selector):
        """Return a canvas's pixels as bytes, RGBA."""
        code = """const c = document.querySelector(arguments[0]);
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
            let s = ''; for (let i = 0; i < d.length; i += 4096) s += String.fromCharCode(...d.subarray(i, i + 4096)); return btoa(s);"""
        return base64.b64decode(self.js(code, selector))

    def downloaded(self, click):
        """Click, and return what is downloaded: (name, bytes)."""
        before = set(self.downloads.iterdir())
        click.click()
        until = time.monotonic() + PATIENCE
        while True:
            new = [path for path in self.downloads.iterdir() if path not in before and path.suffix != ".crdownload"]
            if new and not list(self.downloads.glob("*.crdownload")) and new[0].stat().st_size:
                return new[0].name, new[0].read_bytes()
            assert time.monotonic() < until
            time.sleep(0.02)

    def requests(self):
        """Return the URLs that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def complaints(self):
        """Return what the console holds since the last call."""
        entries = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
        return [message for message in entries if "willReadFrequently" not in message]  # the tests read canvases back, not the page

    def controls(self):
        """Return (role, name) of everything that can be operated, as assistive technology is told."""
        roles = {"button", "link", "textbox", "searchbox", "slider", "combobox", "radio", "checkbox", "application", "DisclosureTriangle"}
        nodes = self.cdp("Accessibility.getFullAXTree")["nodes"]
        found = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
        return [(role, name) for role, name in found if role in roles]

    def faint(self):
        """Return (class, text, ratio) of text whose contrast is below that of WCAG AA."""
        return self.js(FAINT)


FAINT = """const number = (c) => c.match(/[\\d.]+/g).map(Number);
        const over = ([r, g, b, a = 1], below) => [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
        const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, part, i) => sum + part * linear(c[i] / 255), 0);
        const ground = (e) => e ? over(number(getComputedStyle(e).backgroundColor), ground(e.parentElement)) : [255, 255, 255];
        const found = [];
        for (const e of document.querySelectorAll('body *')) {
          const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
          if (!own || !e.checkVisibility() || e.closest(':disabled, .visually-hidden, option')) continue;
          const style = getComputedStyle(e);
          const text = e instanceof SVGElement ? style.fill : style.color;
          const [a, b] = [light(over(number(text), ground(e))), light(ground(e))];
          const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
          if (ratio < 4.5) found.push([e.className, e.textContent.slice(0, 40), ratio]);
        }
        return found;"""


def origin(url):
    """Return scheme, host and port."""
    return urlsplit(url)[:2]
