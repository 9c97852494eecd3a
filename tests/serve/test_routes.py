"""What the routes answer, and that the numbers are the library's, bit for bit."""

import base64
import dataclasses
import hashlib
import io
import itertools
import json

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.heatmaps import encode_png, figure, panel
from nplrp.images import display, load_pixels
from nplrp.model import Preprocessing, chain
from nplrp.outputs import top_labels
from nplrp.rules.composites import COMPOSITES
from nplrp.rules.presets import presets
from nplrp.serve import answers
from tests.networks import conv, images, random_kernel
from tests.serve.servers import local, picture


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def decoded(entry):
    return np.frombuffer(base64.b64decode(entry["b64"]), entry["dtype"]).reshape(entry["shape"])


def as_nplrp(model, content):
    return nplrp.preprocess(io.BytesIO(content), model)


def same(found, expected):
    return found.dtype == expected.dtype and found.tobytes() == expected.tobytes()


def test_health_and_metadata(server, model):
    assert server.get("/v2/health/live").json() == {"live": True}
    assert server.get("/v2/health/ready").json() == {"ready": True}
    assert server.get("/v2").json()["name"] == "nplrp"
    assert server.get("/v1/models").json() == {"models": ["m"]}
    assert server.get("/v1/models/m").json() == {"name": "m", "ready": True}
    assert server.get("/v2/models/m/ready").json() == {"name": "m", "ready": True}
    metadata = server.get("/v2/models/m").json()
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 16, 16, 3]}]
    assert metadata["outputs"][0]["shape"] == [-1, 5]
    assert metadata["versions"] == [model.content_hash[:12]]


def test_info_has_what_the_page_needs(server):
    info = server.get("/v1/info").json()
    assert info["model"] == "m"
    assert (info["input"]["height"], info["input"]["width"]) == (16, 16)
    assert info["classes"][2] == {"unit": 2, "id": "n2", "name": "golden retriever"}
    assert info["composites"] == server.get("/v1/composites").json()["composites"] == presets()
    assert info["limits"]["max_instances"] == 16
    assert server.get(info["sample"]).content.startswith(b"\x89PNG")


def test_presets_are_all_there_and_described():
    rows = presets()
    assert [row["name"] for row in rows] == list(COMPOSITES)
    for row in rows:
        assert row["summary"] and row["group"] and "\n" not in row["summary"]
    by_name = {row["name"]: row for row in rows}
    assert by_name["epsilon_plus"]["summary"] == "zplus in conv; epsilon in dense"
    assert by_name["epsilon_plus"]["group"] == "Zennit"
    assert not by_name["gradient"]["ledger"]


def test_the_page_and_its_files(server):
    page = server.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]


def test_predict_is_the_librarys(server, model):
    content = picture()
    answer = server.predict([b64(content), b64(picture(1))], {"top": 3}).json()
    x = np.concatenate([as_nplrp(model, content), as_nplrp(model, picture(1))])
    expected = [[label._asdict() for label in labels] for labels in top_labels(model, x, 3)]
    assert [each["labels"] for each in answer["predictions"]] == expected
    assert answer["model_name"] == "m" and answer["model_version"] == model.content_hash[:12]


@pytest.mark.parametrize("composite", ["notebook", "zplus", "epsilon_gamma_box", "gamma(gamma=0.5)", "gradient"])
def test_explain_is_the_librarys(server, model, composite):
    content = picture()
    answer = server.explain([b64(content)], {"composite": composite, "layers": ["input", "block1_conv2", "fc1"]}).json()
    e = nplrp.explain(model, as_nplrp(model, content), composite)
    (found,) = answer["explanations"]
    for name in ("input", "block1_conv2", "fc1"):
        assert same(decoded(found["relevance"][name]), e.relevances[name][0])
    assert found["sha256"] == hashlib.sha256(e.relevance[0].tobytes()).hexdigest()
    assert found["sum"] == float(e.relevance[0].sum(dtype=float))
    assert answer["predictions"][0]["labels"] == [label._asdict() for label in e.labels()[0]]
    if composite == "gradient":
        assert found["ledger"] is None
    else:
        assert found["ledger"] == e.books.image(0).as_rows()
        assert found["warnings"] == e.books.alarms()
    if composite == "notebook":
        assert found["target"] is None
    else:
        assert found["target"] == e.target_labels()[0]._asdict()
    provenance = answer["provenance"]
    assert provenance["weights_sha256"] == model.content_hash
    assert provenance["composite"] == e.plan.composite.name
    assert provenance["rules"]["fc1"] == str(e.plan.rules[[s.name for s in e.plan.steps].index("fc1")])
    assert provenance["versions"]["nplrp"] == nplrp.__version__
    assert provenance["preprocessing"] == {"mode": "caffe", "resample": "nearest", "crop": False, "source": "the model"}


def test_tensors_as_nested_lists(server, model):
    x = images(3, 2, model.input_shape).astype(np.float32)
    answer = server.explain([each.tolist() for each in x], {"composite": "zplus", "target": [1, 2], "ledger": False}).json()
    e = nplrp.explain(model, x, "zplus", [1, 2])
    for found, R in zip(answer["explanations"], e.relevance, strict=True):
        assert same(decoded(found["relevance"]["input"]), R)
        assert found["ledger"] is None
    assert [found["target"]["unit"] for found in answer["explanations"]] == [1, 2]
    assert [found["instance"] for found in answer["explanations"]] == [0, 1]


def test_targets(server, model):
    content = picture()
    x = as_nplrp(model, content)
    best = nplrp.explain(model, x, "zplus").targets[0]

    def units(target, composite="zplus"):
        found = server.explain([b64(content)], {"composite": composite, "target": target, "ledger": False}).json()["explanations"]
        return [each["target"] and each["target"]["unit"] for each in found]

    assert units("argmax") == units(None) == [best]
    assert units("argmax", "notebook") == [best]
    assert units(None, "notebook") == [None]
    assert units(2) == units("2") == units("n2") == units("Golden_Retriever") == [2]
    assert units("top-3") == nplrp.explain(model, x, "zplus", "top-3").targets.tolist()


def test_encodings(server, model):
    content = picture()
    R = nplrp.explain(model, as_nplrp(model, content), "zplus").relevance
    as_list = server.explain([b64(content)], {"composite": "zplus", "encoding": "list"}).json()["explanations"][0]["relevance"]["input"]
    assert same(np.asarray(as_list["list"], np.float32), R[0])
    as_png = server.explain([b64(content)], {"composite": "zplus", "encoding": "png"}).json()["explanations"][0]["relevance"]["input"]
    assert base64.b64decode(as_png["png"]) == encode_png(nplrp.heatmap(R)[0])


def test_pictures_and_arrays_by_accept(server, model):
    content = picture()
    e = nplrp.explain(model, as_nplrp(model, content), "zplus")
    shown = display(load_pixels(io.BytesIO(content), model))[0]
    label = e.target_labels()[0]
    for options, drawn in (
        ({}, nplrp.heatmap(e.relevance)[0]),
        ({"cmap": "seismic"}, nplrp.heatmap(e.relevance, "seismic")[0]),
        ({"picture": "figure"}, figure(shown, nplrp.heatmap(e.relevance)[0], label.id, label.name, label.score)),
        (
            {"picture": "panel", "cmap": "bwr"},
            panel(shown, {"zplus": e.relevance[0]}, f"{label.name} ({label.id}), {label.score:.4f}", "bwr"),
        ),
    ):
        answer = server.explain(content, {"composite": "zplus", **options}, headers={"accept": "image/png"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == encode_png(drawn)
    answer = server.explain(content, {"composite": "zplus", "target": "top-2"}, headers={"accept": "application/x-npy"})
    assert answer.headers["content-type"] == "application/x-npy"
    assert same(np.load(io.BytesIO(answer.content)), nplrp.explain(model, e.x, "zplus", "top-2").relevance)
    vector = server.explain(content, {"layers": "fc1"}, headers={"accept": "application/x-npy"})
    assert np.load(io.BytesIO(vector.content)).shape == (1, 7)


def test_three_ways_to_send_an_image(server):
    for form, kind in (("PNG", "image/png"), ("JPEG", "image/jpeg")):
        content = picture(form=form)
        by_json = server.explain([b64(content)], {"composite": "zplus"}).json()
        bare = server.explain(content, {"composite": "zplus"}).json()
        upload = server.request(
            "POST", "/v1/models/m:explain", files={"image": ("a b.png", content, kind)}, data={"composite": "zplus", "ledger": "true"}
        ).json()
        assert by_json == bare == upload
    several = server.request("POST", "/v1/models/m:predict", files=[("image", ("x", picture(i), "image/png")) for i in range(3)]).json()
    assert len(several["predictions"]) == 3


def test_preprocessing_can_be_chosen(server, model):
    content = picture()
    answer = server.explain(content, {"resample": "bilinear", "crop": "true", "composite": "zplus"}).json()
    x = nplrp.preprocess(io.BytesIO(content), model, resample="bilinear", crop=True)
    assert answer["explanations"][0]["sha256"] == answers.digest(nplrp.explain(model, x, "zplus").relevance[0])
    assert answer["provenance"]["preprocessing"]["resample"] == "bilinear"


def test_pictures_whose_preparation_nobody_knows_are_refused_and_tensors_are_not(model):
    unknown = dataclasses.replace(model, preprocessing=nplrp.Preprocessing())
    with local(unknown) as running:
        answer = running.explain(picture())
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_image") and "--preprocessing" in answer.json()["error"]
        assert running.explain([images(3, 1, model.input_shape)[0].tolist()]).status_code == 200
        assert running.request("GET", "/v1/info").json()["input"]["mode"] == "unknown"


def test_tensors_that_can_hardly_be_right_are_doubted_in_the_answer(server, model):
    x = np.full((1, *model.input_shape), 255.0)
    (found,) = server.explain(x.tolist(), {"composite": "epsilon"}).json()["explanations"]
    assert any("make it with nplrp.preprocess" in each for each in found["warnings"])
    (prediction,) = server.request("POST", "/v1/models/m:predict", json={"instances": x.tolist()}).json()["predictions"]
    assert "make it with nplrp.preprocess" in prediction["warnings"][0]


def test_request_ids(server):
    assert server.get("/v2", headers={"x-request-id": "abc-1:2.3"}).headers["x-request-id"] == "abc-1:2.3"
    for bad in ("a b", "x" * 200, "<script>"):
        given = server.get("/v2", headers={"x-request-id": bad}).headers["x-request-id"]
        assert given != bad and len(given) == 32


def test_metrics_count(server):
    def count(text, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    before = server.get("/metrics").text
    server.explain(picture())
    server.explain(b"\x89PNG nonsense")
    after = server.get("/metrics").text
    for name, more in (
        ('nplrp_requests_total{route="/v1/models/{name}:explain",status="200"}', 1),
        ('nplrp_requests_total{route="/v1/models/{name}:explain",status="400"}', 1),
        ('nplrp_rejected_total{reason="bad_image"}', 1),
        ("nplrp_compute_seconds_count", 1),
        ("nplrp_queue_seconds_count", 1),
        ('nplrp_request_seconds_count{route="/v1/models/{name}:explain"}', 2),
    ):
        assert count(after, name) - count(before, name) == more, name
    assert count(after, "nplrp_queue_depth") == 0
    assert count(after, "nplrp_ready") == 1
    assert count(after, "nplrp_resident_bytes") > 1e6
    assert count(after, "nplrp_in_flight") == 1  # this one


def test_the_access_log_says_who_and_how_long_but_shows_no_image(server, caplog):
    content = picture()
    with caplog.at_level("INFO", "nplrp.serve.access"):
        server.explain(content, {"composite": "zplus"}, headers={"x-request-id": "look-for-me"})
    (line,) = [json.loads(record.message) for record in caplog.records if "look-for-me" in record.message]
    assert line["status"] == 200 and line["path"] == "/v1/models/m:explain" and line["method"] == "POST"
    assert line["bytes_in"] == len(content) and line["instances"] == 1
    assert line["ms"] >= line["compute_ms"] > 0
    assert len(json.dumps(line)) < 500


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", answers.JSON),
        ("*/*", answers.JSON),
        ("text/html,application/xhtml+xml", answers.JSON),
        ("image/png", answers.PNG),
        ("IMAGE/PNG; q=0.5, application/json; q=0.9", answers.JSON),
        ("image/png;q=0", answers.JSON),
        ("image/png;q=nonsense, application/x-npy;q=0.1", answers.NPY),
    ],
)
def test_accept(accept, kind):
    assert answers.choose_type(accept) == kind


def test_json_in_pieces_is_json():
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3) / 3
    content = {"a": [], "b": {}, "c": [{"d": array}, {"e": [1, None, "ü"]}], "f": array[0, 0], "g": -0.0}
    text = b"".join(answers._chunks(content))
    expected = {"a": [], "b": {}, "c": [{"d": array.tolist()}, {"e": [1, None, "ü"]}], "f": array[0, 0].tolist(), "g": -0.0}
    assert json.loads(text) == expected


def test_bits_dont_depend_on_who_else_asks(server, model):
    """Requests that are computed together get what each would get alone."""
    contents = [picture(i) for i in range(16)]
    composites = ("notebook", "zplus", "zplus", "zplus")
    cases = list(zip(contents, itertools.cycle(composites), strict=False))

    async def all_at_once():
        import asyncio

        return await asyncio.gather(
            *(
                server.http.post(f"/v1/models/m:explain?composite={composite}", content=content, headers={"content-type": "image/png"})
                for content, composite in cases
            )
        )

    for answer, (content, composite) in zip(server.do(all_at_once()), cases, strict=True):
        assert answer.status_code == 200
        R = nplrp.explain(model, as_nplrp(model, content), composite).relevance[0]
        assert answer.json()["explanations"][0]["sha256"] == answers.digest(R)


def test_grey_models_and_odd_pictures(server):
    grey = io.BytesIO()
    Image.new("L", (5, 5), 100).save(grey, "PNG")
    assert server.explain(grey.getvalue()).status_code == 200
    palette = io.BytesIO()
    Image.new("P", (5, 5), 3).save(palette, "PNG", transparency=3)
    assert server.explain(palette.getvalue()).status_code == 200


def test_a_network_that_scores_every_pixel():
    """Outputs are named by their positions, which are targets too; all of it at once can be explained."""
    rng = np.random.default_rng(8)
    layers = [conv("one", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4)), conv("two", random_kernel(rng, 3, 3, 4, 3), None, "softmax")]
    model = chain((16, 16, 3), layers, "pixels", preprocessing=Preprocessing("caffe"))
    x = as_nplrp(model, picture())
    e = nplrp.explain(model, x, "epsilon", (3, 4, 1))
    scores = nplrp.predict(model, x)[0]
    with local(model) as server:
        (found,) = server.predict([b64(picture())]).json()["predictions"]
        assert [each["score"] for each in found["labels"]] == sorted(scores.ravel().tolist(), reverse=True)[:5]
        place = tuple(map(int, found["labels"][0]["id"].split(",")))
        assert scores[place] == found["labels"][0]["score"]
        for target in ("3,4,1", "(3, 4, 1)"):
            answer = server.explain([b64(picture())], {"composite": "epsilon", "target": target, "encoding": "b64"}).json()
            (one,) = answer["explanations"]
            assert one["target"]["id"] == "3,4,1" and same(decoded(one["relevance"]["input"]), e.relevance[0])
        both = server.explain([b64(picture())] * 2, {"composite": "epsilon", "target": ["3,4,1", "0,0,0"], "encoding": "b64"}).json()
        assert [each["target"]["id"] for each in both["explanations"]] == ["3,4,1", "0,0,0"]
        whole = server.explain([b64(picture())], {"composite": "epsilon", "start": "all", "encoding": "b64"}).json()["explanations"][0]
        assert whole["target"] is None
        assert same(decoded(whole["relevance"]["input"]), nplrp.explain(model, x, "epsilon", start="all").relevance[0])
        assert "no class to choose" in server.explain([b64(picture())], {"composite": "epsilon"}).json()["error"]
