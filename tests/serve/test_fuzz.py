"""Whatever arrives, the answer is one of the documented ones, and the server goes on."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.rules.composites import COMPOSITES, STARTS
from nplrp.rules.dialects import DIALECTS
from nplrp.serve.problems import CODES, Problem
from nplrp.serve.reading import read_request
from nplrp.serve.wanted import ENCODINGS, PICTURES, Wanted
from tests.serve.servers import picture

PATH = "/v1/models/m:explain"
PICTURES_SENT = (picture(height=9, width=9), picture(height=9, width=9, form="JPEG"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fuzz = settings(max_examples=60, deadline=None)


def documented(answer):
    assert answer.status_code in (200, 400, 404, 413, 415), answer.text
    if answer.status_code != 200:
        body = answer.json()
        assert CODES[body["code"]][0] == answer.status_code
        assert "\n" not in body["error"]
    return answer


@fuzz
@given(st.binary(max_size=300), st.sampled_from(["application/json", "image/png", "image/jpeg", "multipart/form-data; boundary=b", "x/y"]))
def test_bytes(server, content, kind):
    assert documented(server.request("POST", PATH, content=content, headers={"content-type": kind})).status_code != 200


@fuzz
@given(st.dictionaries(st.sampled_from(["instances", "parameters", "x"]), VALUES, max_size=3) | VALUES)
def test_json(server, content):
    text = json.dumps(content)
    assert documented(server.request("POST", PATH, content=text, headers={"content-type": "application/json"})).status_code != 200


@fuzz
@given(st.dictionaries(st.sampled_from(sorted(Wanted.__dataclass_fields__)) | st.text(max_size=9), VALUES, max_size=3))
def test_values_of_parameters(server, parameters):
    content = {"instances": [{"b64": base64.b64encode(PICTURES_SENT[0]).decode()}], "parameters": parameters}
    documented(server.request("POST", PATH, content=json.dumps(content), headers={"content-type": "application/json"}))


@fuzz
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "composite": st.sampled_from(sorted(COMPOSITES)),
            "dialect": st.sampled_from(sorted(DIALECTS)),
            "start": st.sampled_from(STARTS),
            "target": st.integers(0, 4) | st.sampled_from(["argmax", "top-2", "dog", "n3"]),
            "encoding": st.sampled_from(ENCODINGS),
            "layers": st.lists(st.sampled_from(["input", "block1_conv2", "block1_pool"]), min_size=1, max_size=2),
            "picture": st.sampled_from(PICTURES),
            "ledger": st.booleans(),
            "algorithm": st.sampled_from(["auto", "direct"]),
        },
    )
)
def test_parameters_that_exist(server, parameters):
    """All of these are accepted; a rule may still divide by nothing on some image."""
    answer = documented(server.explain([{"b64": base64.b64encode(PICTURES_SENT[0]).decode()}], parameters))
    assert answer.status_code == 200 or answer.json()["code"] in ("not_finite", "bad_rule")


@pytest.mark.parametrize("composite", COMPOSITES)
def test_every_composite_is_answered(server, composite):
    answer = server.explain([{"b64": base64.b64encode(PICTURES_SENT[0]).decode()}], {"composite": composite})
    assert answer.status_code == 200
    assert len(answer.json()["explanations"]) == 1


@fuzz
@given(st.sampled_from(PICTURES_SENT), st.integers(0, 400), st.binary(max_size=8), st.integers(0, 400))
def test_damaged_images(server, content, place, inserted, cut):
    damaged = content[:place] + inserted + content[place + len(inserted) :][: len(content) - cut]
    documented(server.explain([{"b64": base64.b64encode(damaged).decode()}], {"ledger": False}))


def read(text):
    return read_request(text, (2, 3, 1), 3, lambda b64, i: {"b64": b64})


@fuzz
@given(st.binary(max_size=100) | st.text(alphabet='[]{}",:0123456789eE.-+ \\nulltruefalseNaNInfinity', max_size=100).map(str.encode))
def test_json_is_read_strictly(content):
    """What is read, Python's reader reads; what is refused is refused by a Problem and nothing else."""
    for text in (content, b'{"instances": [' + content + b"]}", b'{"instances": [], "parameters": ' + content + b"}"):
        try:
            instances, parameters = read(text)
        except Problem as problem:
            assert problem.code in ("bad_json", "bad_instances", "bad_parameter")
        else:
            assert json.loads(text.decode("utf-8")) in ({"instances": instances, "parameters": parameters}, {"instances": instances})


TENSORS = st.lists(
    st.lists(st.lists(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | VALUES, max_size=2), max_size=4), max_size=2
)


@fuzz
@given(
    st.lists(TENSORS | st.builds(lambda b64: {"b64": b64}, st.text()) | st.none() | st.integers() | st.text(max_size=9), max_size=3),
    st.dictionaries(st.text(max_size=8), VALUES, max_size=4),
    st.sampled_from([None, 0, 1, 40]),
    st.booleans(),
)
def test_json_that_fits_is_read_as_python_reads_it(instances, parameters, indent, ascii_only):
    content = {"parameters": parameters, "instances": instances}
    try:
        text = json.dumps(content, indent=indent, ensure_ascii=ascii_only, allow_nan=False).encode()
    except ValueError:  # NaN, or half of a surrogate pair
        return
    assert read(text) == (instances, parameters)


@pytest.mark.parametrize("name", ["../m", "..%2f..%2fetc", "m/../m", "%00", "a" * 3000, "m:explain:explain", "ü", "m;x", "m?x"])
def test_names_of_models(server, name):
    answer = server.request("POST", f"/v1/models/{name}:explain", content=b"")
    assert answer.status_code in (404, 405, 415)


def test_it_still_works(server):
    assert server.explain(picture()).status_code == 200
    assert server.service.lane.alive
    assert server.service.lane.depth == 0
    assert server.service._buffered == 0
