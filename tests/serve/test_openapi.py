"""The server does what its OpenAPI document says, as schemathesis (unmodified, its own command line) sees it."""

import re
import subprocess
import sys
from pathlib import Path

from nplrp.serve.problems import CODES
from tests.serve.servers import PATIENCE, ROOT, remote

SMALL = ROOT / "tests" / "data" / "keras_files" / "keras2_compiled.h5"


def test_schemathesis_finds_nothing(tmp_path):
    with remote(tmp_path, weights=SMALL) as server:
        tool = Path(sys.executable).with_name("st")
        flags = [
            "--max-examples",
            "10",
            "--request-timeout",
            str(PATIENCE),
            "--phases",
            "examples,coverage,fuzzing",
            "--suppress-health-check",
            "all",
            "--seed",
            "1",
        ]
        command = [tool, "--config-file", Path(__file__).with_name("schemathesis.toml"), "run", f"{server.url}/openapi.json", *flags]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=4 * PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Tested: 14" in done.stdout
        statuses = {line["status"] for line in server.lines()}
        assert {200, 400, 404, 405, 415} <= statuses and 500 not in statuses
        assert server.ready()
        assert "Traceback" not in server.errors.read_text()


def test_every_route_and_code_is_documented(server):
    document = server.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["Error"]["properties"]["code"]["enum"]) == set(CODES)
    text = str(document["paths"])
    for code in set(CODES) - {"not_found", "method_not_allowed"}:
        assert f"`{code}`" in text
    assert sum(len(set(methods) - {"parameters"}) for methods in document["paths"].values()) == 15
    for path, methods in document["paths"].items():
        for method in set(methods) - {"parameters"}:
            answer = server.request(method.upper(), path.replace("{name}", "m"))
            assert answer.status_code == (415 if method == "post" else 200)
            assert str(answer.status_code) in methods[method]["responses"]
    references = re.findall(r"#/components/schemas/(\w+)", str(document))
    assert len(references) > 20
    assert set(references) <= set(document["components"]["schemas"])


def test_the_example_works(server):
    operation = server.get("/openapi.json").json()["paths"]["/v1/models/{name}:explain"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["examples"]["png"]["value"]
    assert server.explain(example["instances"]).status_code == 200
