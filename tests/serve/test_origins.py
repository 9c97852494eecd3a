"""Pages from elsewhere: another origin's requests, and a name that was led to this server (DNS rebinding), also in a real browser."""

import base64
import re
import select
import socket
import threading
from contextlib import contextmanager, suppress

import pytest

from nplrp.serve.problems import CODES, ServeError
from nplrp.serve.settings import Settings
from tests.serve.browser import chromium
from tests.serve.servers import local, picture, remote
from tests.serve.test_limits import PATH, refused

FRIEND = "https://friend.example"


def explain(server, **headers):
    headers = {"content-type": "image/png", **{key.replace("_", "-"): value for key, value in headers.items()}}
    return server.request("POST", f"{PATH}?ledger=false", content=picture(), headers=headers)


@pytest.mark.parametrize(
    ("settings", "good", "bad"),
    [
        pytest.param(
            {},
            ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1", "127.0.0.1:8080", "127.3.4.5", "[::1]", "[::1]:80", "localhost:"],
            [
                "evil.example",
                "evil.example:8080",
                "localhost.evil.example",
                "evil-localhost",
                "127.0.0.1.evil.example",
                "10.0.0.1",
                "[::2]",
            ],
            id="loopback",
        ),
        pytest.param(
            {}, [], ["", "a@localhost", "localhost:80:80", "localhost/", "[::1", "::1]", "localhost evil", "127.1", "0"], id="odd"
        ),
        pytest.param(
            {"host": "0.0.0.0"}, ["10.0.0.1:80", "[2001:db8::1]", "localhost"], ["evil.example", "10.0.0.1.evil"], id="everywhere"
        ),
        pytest.param({"host": "::"}, ["10.0.0.1:80", "[2001:db8::1]"], ["evil.example"], id="everywhere, IPv6"),
        pytest.param({"host": "10.0.0.7"}, ["10.0.0.7", "10.0.0.7:1", "localhost"], ["10.0.0.8", "evil.example"], id="one address"),
        pytest.param({"allowed_hosts": ("a.example", "B.example")}, ["a.example:1", "b.example", "localhost"], ["x.a.example"], id="names"),
        pytest.param({"allowed_hosts": ("*",)}, ["evil.example"], [], id="any"),
    ],
)
def test_hosts(model, settings, good, bad):
    with local(model, **settings) as server:
        for host in good:
            assert server.get("/v2", headers={"host": host}).status_code == 200, host
            assert explain(server, host=host).status_code == 200, host
        for host in bad:
            for answer in (server.get("/v2", headers={"host": host}), server.get("/", headers={"host": host}), explain(server, host=host)):
                assert "--allowed-hosts" in refused(answer, "wrong_host")


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({}, True),
        ({"origin": "http://localhost"}, True),
        ({"origin": "https://localhost"}, True),  # behind a proxy
        ({"origin": "http://localhost:81"}, False),
        ({"origin": "null"}, False),
        ({"origin": "http://evil.example"}, False),
        ({"origin": "http://127.0.0.1"}, False),
        ({"origin": ""}, False),
        ({"sec_fetch_site": "same-origin", "origin": "https://proxy.example"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site", "origin": "http://localhost:81"}, False),
        ({"sec_fetch_site": "cross-site", "origin": "http://localhost"}, False),
        ({"sec_fetch_site": "nonsense"}, False),
    ],
)
def test_origins(server, headers, good):
    answer = explain(server, **headers)
    assert answer.status_code == 200 if good else "--cors" in refused(answer, "foreign_origin")
    assert "access-control-allow-origin" not in answer.headers
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    assert server.get("/v2", headers=sent).status_code == 200  # which no other origin can read


def test_origins_that_may(model):
    with local(model, cors=(FRIEND, "http://localhost:5173")) as server:
        for origin in (FRIEND, "http://localhost:5173"):
            for answer in (explain(server, origin=origin, sec_fetch_site="cross-site"), server.get("/v2", headers={"origin": origin})):
                assert answer.status_code == 200
                assert answer.headers["access-control-allow-origin"] == origin
                assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
                assert answer.headers["vary"] == "Origin"
        asked = {"origin": FRIEND, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        answer = server.request("OPTIONS", PATH, headers=asked)
        assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == FRIEND
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "Content-Type" in answer.headers["access-control-allow-headers"]
        refused(server.request("OPTIONS", PATH, headers=asked | {"origin": "https://friend.example.evil"}), "method_not_allowed")
        refused(server.request("OPTIONS", PATH, headers=asked | {"host": "evil.example"}), "wrong_host")
        refused(explain(server, origin="https://evil.example"), "foreign_origin")
        assert server.get("/v2").headers["vary"] == "Origin"


def test_headers_of_every_answer(server):
    answers = [server.get(path) for path in ("/", "/style.css", "/sample.png", "/v1/info", "/metrics", "/nope", "/openapi.json")]
    answers += [explain(server), explain(server, origin="null"), explain(server, host="evil.example")]
    for answer in answers:
        assert answer.headers.get_list("cache-control") == ["no-store"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "settings",
    [
        {"cors": ("*",)},
        {"cors": ("https://a.example/",)},
        {"cors": ("a.example",)},
        {"cors": ("HTTPS://a.example",)},
        {"cors": ("https://a.example\r\nX: y",)},
        {"allowed_hosts": ("https://a.example",)},
        {"allowed_hosts": ("a.example:80",)},
        {"allowed_hosts": ("",)},
    ],
)
def test_settings_that_are_no_hosts_or_origins(settings):
    with pytest.raises(ServeError, match=r"--cors|--allowed-hosts"):
        Settings(**settings)


def test_they_are_flags():
    import argparse

    from nplrp.serve.settings import add_flags, settings_of

    parser = argparse.ArgumentParser()
    add_flags(parser)
    given = settings_of(parser.parse_args(["--allowed-hosts", "a.example, b.example", "--cors", FRIEND]))
    assert (given.allowed_hosts, given.cors) == (("a.example", "b.example"), (FRIEND,))


def test_codes():
    assert CODES["wrong_host"][0] == 421 and CODES["foreign_origin"][0] == 403


# In a browser

#: An attacker's page. It tries what pages may send, and puts what it learns into its title.
ATTACK = """<!doctype html><title>trying</title><script>
const png = Uint8Array.from(atob("PNG"), (c) => c.charCodeAt(0));
const form = () => { const f = new FormData(); f.append("image", new Blob([png], { type: "image/png" }), "x.png"); return f; };
async function attempt(name, ask) {
  try { const a = await ask(); return [name, a.type, a.status, (await a.text()).slice(0, 2000), [...a.headers]]; }
  catch (e) { return [name, String(e)]; }
}
async function all(target) {
  const url = `${target}/v1/models/m:explain?ledger=false`;
  return [
    await attempt("read", () => fetch(`${target}/v1/info`)),
    await attempt("form", () => fetch(url, { method: "POST", body: form() })),
    await attempt("blind", () => fetch(url, { method: "POST", body: form(), mode: "no-cors" })),
    await attempt("bytes", () => fetch(url, { method: "POST", body: png, headers: { "Content-Type": "image/png" } })),
  ];
}
</script>"""


@contextmanager
def site(forward=None):
    """Serve the attacker's page on 127.0.0.2, on the port of `forward` if that is given; once `led` is set, everything goes there."""
    page = ATTACK.replace("PNG", base64.b64encode(picture()).decode()).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(page)
    led, stop = threading.Event(), threading.Event()
    listening = socket.create_server(("127.0.0.2", forward[1] if forward else 0))

    def serve(connection):
        with connection, suppress(OSError):  # either side may go at any time
            first = connection.recv(65536)  # browsers connect ahead, and ask later
            if not led.is_set():
                connection.sendall(head + page)
                return
            with socket.create_connection(forward) as onward:
                onward.sendall(first)
                pairs = {connection: onward, onward: connection}
                while not stop.is_set():
                    for each in select.select(list(pairs), [], [], 0.1)[0]:
                        data = each.recv(65536)
                        if not data:
                            return
                        pairs[each].sendall(data)

    def accept():
        while not stop.is_set():
            if select.select([listening], [], [], 0.1)[0]:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listening.getsockname()[1], led
    finally:
        stop.set()
        thread.join()
        listening.close()


def attack(browser, target):
    return browser.driver.execute_async_script("const done = arguments[1]; all(arguments[0]).then(done)", target)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    rules = "MAP evil.example 127.0.0.2, MAP good.example 127.0.0.1"
    flags = (f"--host-resolver-rules={rules}", "--disable-features=LocalNetworkAccessChecks")  # which asks before, in some versions
    with chromium(tmp_path_factory.mktemp("browser"), *flags) as started:
        yield started


def test_another_origins_page_in_a_browser(browser, tmp_path):
    """Its form went through before, and was computed."""
    with remote(tmp_path) as server, site() as (port, _):
        browser.driver.get(f"http://evil.example:{port}/")
        found = attack(browser, server.url)
        assert server.stop() == 0
    assert all("TypeError" in entry[1] for entry in found if entry[0] != "blind"), found
    posted = [line for line in server.lines() if line["method"] == "POST"]
    assert len(posted) >= 2 and {line["status"] for line in posted} == {403}


def test_a_friends_page_in_a_browser(browser, tmp_path):
    with site() as (port, _), remote(tmp_path, "--cors", f"http://evil.example:{port}") as server:
        browser.driver.get(f"http://evil.example:{port}/")
        found = {name: rest for name, *rest in attack(browser, server.url)}
    for name in ("read", "form", "bytes"):
        assert found[name][:2] == ["cors", 200], found[name]
    assert found["read"][2].startswith('{"model":"m"')
    assert any(key == "x-request-id" for key, _ in found["form"][3])


def test_dns_rebinding_in_a_browser(browser, tmp_path):
    """The name led to the attacker when the page was loaded, and leads to the server afterwards: for the browser, it is one origin."""
    with remote(tmp_path) as server, site(server.address()) as (port, led):
        own = f"http://evil.example:{port}"
        browser.driver.get(f"{own}/")
        led.set()
        found = {name: rest for name, *rest in attack(browser, own)}
        assert server.stop() == 0
    for name in ("read", "form", "bytes"):
        assert found[name][:2] == ["basic", 421], found[name]
        assert re.search(r'"code": ?"wrong_host"', found[name][2])
    assert {line["status"] for line in server.lines() if line["request_id"] and line["path"] != "/v2/health/ready"} == {421}


#: What the server's own page does with a picture.
OWN = """const [b64, done] = arguments, form = new FormData();
  const bytes = Uint8Array.from(atob(b64), (c) => c.charCodeAt(0));
  form.append('image', new Blob([bytes], { type: 'image/png' }), 'x.png');
  const options = { method: 'POST', body: form };
  fetch('/v1/models/m:explain?ledger=false', options).then((a) => done(a.status), (e) => done(String(e)));"""


def test_the_page_itself_in_a_browser(browser, tmp_path):
    """By any of its names its own page may ask: browsers say Sec-Fetch-Site to loopback addresses, and Origin alone to others."""
    with remote(tmp_path, "--allowed-hosts", "good.example") as server:
        port = server.address()[1]
        for name in ("127.0.0.1", "localhost", "good.example"):
            browser.driver.get(f"http://{name}:{port}/")
            assert browser.driver.execute_async_script(OWN, base64.b64encode(picture()).decode()) == 200
