"""The OpenAPI 3.1 description of a server, written by hand; `tests/serve` lets schemathesis hold the server to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nplrp import __version__
from nplrp.model import Model
from nplrp.plan import ALGORITHMS
from nplrp.rules.composites import COMPOSITES, STARTS
from nplrp.rules.dialects import DIALECTS
from nplrp.scores import scoring_of
from nplrp.serve.problems import CODES
from nplrp.serve.settings import Settings
from nplrp.serve.wanted import ENCODINGS, PICTURES, PREDICT, RESAMPLE

Schema = dict[str, Any]

#: One grey pixel.
TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNoaGgAAAMEAYFL09IQAAAAAElFTkSuQmCC"

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_TOTAL: Schema = {"type": ["number", "null"], "description": "null if it overflows"}
_WHOLE: Schema = {"type": "integer"}
_ID_HEADER: Schema = {
    "X-Request-ID": {"description": "The client's own, if it is a plain word of at most 128 letters, else a new one.", "schema": _TEXT}
}
_RETRY: Schema = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}}


def openapi(name: str, model: Model, settings: Settings) -> Schema:
    """Return the description of a server of one model."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "nplrp",
            "version": __version__,
            "summary": "Predictions of a neural network, and which pixels made it decide (Layer-wise Relevance Propagation).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _paths(name, model, settings),
        "components": {"schemas": _schemas(name, model, settings)},
    }


def _paths(name: str, model: Model, settings: Settings) -> Schema:
    which = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": [name]}}]
    starting = ("not_ready", "draining")
    named = ("no_model",)
    info = _json("What the web page needs to know.", "Info")
    return {
        "/": {"get": _operation("page", "The web page.", {"200": {"description": "HTML.", "content": {"text/html": {}}}})},
        "/sample.png": {"get": _operation("sample", "A picture to try.", {"200": {"description": "PNG.", "content": {"image/png": {}}}})},
        "/v1/info": {"get": _operation("info", "The model, its classes, the presets and limits.", {"200": info})},
        "/v1/composites": {"get": _operation("composites", "The presets.", {"200": _json("All presets.", "Composites")})},
        "/v1/models": {"get": _operation("models", "The models (KServe V1).", {"200": _json("Their names.", "Models")})},
        "/v1/models/{name}": {
            "parameters": which,
            "get": _operation("model", "One model (KServe V1).", {"200": _json("Whether it is ready.", "ModelState")} | _errors(named)),
        },
        "/v1/models/{name}:predict": {
            "parameters": which,
            "post": _work("predict", "The classes with the largest probabilities.", model, settings),
        },
        "/v1/models/{name}:explain": {
            "parameters": which,
            "post": _work("explain", "Which pixels made the model decide, and where the relevance went.", model, settings),
        },
        "/v2": {"get": _operation("server", "The server (Open Inference Protocol).", {"200": _json("Its version.", "Server")})},
        "/v2/health/live": {"get": _operation("live", "Whether the process answers.", {"200": _json("It does.", "Live")})},
        "/v2/health/ready": {
            "get": _operation("ready", "Whether it can compute.", {"200": _json("It can.", "Ready")} | _errors(starting)),
        },
        "/v2/models/{name}": {
            "parameters": which,
            "get": _operation("model_metadata", "Inputs and outputs.", {"200": _json("Metadata.", "ModelMetadata")} | _errors(named)),
        },
        "/v2/models/{name}/ready": {
            "parameters": which,
            "get": _operation(
                "model_ready", "Whether the model can compute.", {"200": _json("It can.", "ModelState")} | _errors((*named, *starting))
            ),
        },
        "/metrics": {
            "get": _operation("metrics", "Prometheus.", {"200": {"description": "Numbers.", "content": {"text/plain": {"schema": _TEXT}}}})
        },
        "/openapi.json": {
            "get": _operation(
                "openapi",
                "This document.",
                {"200": {"description": "OpenAPI.", "content": {"application/json": {"schema": {"type": "object"}}}}},
            )
        },
    }


def _operation(name: str, summary: str, responses: Schema) -> Schema:
    responses = _errors(("wrong_host",)) | responses
    for response in responses.values():
        response.setdefault("headers", {}).update(_ID_HEADER)
    return {"operationId": name, "summary": summary, "responses": responses}


def _json(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _errors(codes: Sequence[str]) -> Schema:
    """Return the responses for some codes, by status."""
    responses: Schema = {}
    for code in codes:
        status, meaning = CODES[code]
        found = responses.setdefault(str(status), _json("", "Error") | {"headers": dict(_RETRY) if status in (429, 503) else {}})
        found["description"] += f"`{code}`: {meaning}. "
    return responses


def _work(verb: str, summary: str, model: Model, settings: Settings) -> Schema:
    """Return a `:predict` or `:explain`."""
    picture = {"type": "string", "contentEncoding": "binary"}
    query = [
        {"name": key, "in": "query", "required": False, "schema": schema, "description": "The body's own counts for more."}
        for key, schema in _parameters(verb, model, settings, as_text=True).items()
    ]
    ok = _json("The answer.", verb.capitalize() + "Response")
    if verb == "explain":
        ok["content"] |= {"image/png": {"schema": picture}, "application/x-npy": {"schema": picture}}
    elsewhere = ("method_not_allowed", "not_found")
    responses = {"200": ok} | _errors([code for code in CODES if code not in elsewhere and (verb == "explain" or code != "bad_rule")])
    fields = {"image": {"type": "array", "items": picture, "maxItems": settings.max_instances}}
    form = {"type": "object", "properties": fields | _parameters(verb, model, settings, as_text=True), "required": ["image"]}
    upload = {"schema": form, "encoding": {"image": {"contentType": "image/jpeg, image/png"}}}
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{verb.capitalize()}Request"},
                "examples": {"png": {"value": {"instances": [{"b64": TINY_PNG}]}}},
            },
            "multipart/form-data": upload,
            "image/jpeg": {"schema": picture},
            "image/png": {"schema": picture},
        },
    }
    return {**_operation(verb, summary, responses), "parameters": query, "requestBody": body}


def _parameters(verb: str, model: Model, settings: Settings, as_text: bool = False) -> Schema:
    """Return the schemas of the parameters; as texts, as queries and forms have them."""
    units, layers = scoring_of(model).classes, ["input", *(layer.name for layer in model)]
    top: Schema = {"type": "string", "pattern": "^top-[1-9][0-9]*$", "description": "Several maps, of the largest outputs."}
    one: Schema = {"type": "integer", "minimum": 0, "maximum": units - 1}
    named: Schema = {"enum": sorted({each for pair in model.classes or () for each in pair})} if model.classes else {}
    choices = [one, {"const": "argmax"}, top, *([named] if named else [])]
    found: Schema = {
        "composite": {
            "type": "string",
            "description": "A preset of /v1/composites, perhaps with parameters: `gamma(gamma=0.5)`.",
            "anyOf": [{"enum": list(COMPOSITES)}, {"type": "string", "pattern": r"^[a-z_A-Z.0-9]+\(.*\)$", "maxLength": 300}],
            "default": "notebook",
        },
        "dialect": {"enum": list(DIALECTS), "description": "Whose formulas; default: the composite's own."},
        "target": {
            "anyOf": choices
            if as_text
            else [*choices, {"type": "array", "items": {"anyOf": [one, *([named] if named else [])]}, "minItems": 1}],
            "description": "Which output: index, class id or name, `argmax`, `top-3`, or one for each instance; default: the start's.",
        },
        "start": {"enum": list(STARTS), "description": "What the pass begins with; default: the dialect's."},
        "layers": {"type": "array", "items": {"enum": layers}, "minItems": 1, "default": ["input"]},
        "encoding": {"enum": list(ENCODINGS), "default": "b64", "description": "b64: little-endian numbers; png: a picture."},
        "ledger": {"type": "boolean", "default": True, "description": "Where the relevance went; takes a second pass."},
        "top": {"type": "integer", "minimum": 0, "maximum": 100000, "default": 5},
        "dtype": {"enum": list(settings.dtypes), "default": "float32"},
        "algorithm": {"enum": list(ALGORITHMS), "default": "auto"},
        "picture": {"enum": list(PICTURES), "default": "heatmap", "description": "Of PNG: figure and panel have the image beside it."},
        "cmap": {"type": "string", "default": "rainbow", "examples": ["seismic"], "description": "One of matplotlib's colour maps."},
        "resample": {"enum": list(RESAMPLE), "description": "Filter of the resize; default: the model's."},
        "crop": {"type": "boolean", "description": "Cut out the centre instead of squeezing; default: the model's."},
        "seen": {"type": "boolean", "default": False, "description": "Also the image at the model's size, as PNG."},
    }
    if not as_text:
        found |= {key: {"anyOf": [found[key], {"type": "null"}]} for key in ("dialect", "target", "start", "resample", "crop")}
    else:
        found["layers"] = {"type": "string", "description": "Names, by comma.", "examples": ["input"], "default": "input"}
    return {key: schema for key, schema in found.items() if verb == "explain" or key in PREDICT}


def _object(properties: Schema, *optional: str) -> Schema:
    return {"type": "object", "properties": properties, "required": [key for key in properties if key not in optional]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _nested(shape: Sequence[int]) -> Schema:
    """Return the schema of nested lists of numbers."""
    schema: Schema = {"type": "number"}
    for n in reversed(shape):
        schema = {"type": "array", "items": schema, "minItems": n, "maxItems": n}
    return schema


def _schemas(name: str, model: Model, settings: Settings) -> Schema:
    ledger_row = _object(
        {"layer": _TEXT, "rule": _TEXT}
        | dict.fromkeys(("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created", "residual"), _TOTAL)
    )
    ledger_row["properties"]["edges"] = {
        "type": "object",
        "additionalProperties": _TOTAL,
        "description": "`out`, by what the layer reads.",
    }
    ledger_row["required"].append("edges")
    ledger_row["description"] = "in + created = out + bias + epsilon + dropped + residual; from the output down to the input."
    what = {**_TEXT, "description": "What the score is: probability, log-probability, score (of one of several labels), logit, value."}
    label = _object({"unit": _WHOLE, "id": _TEXT, "name": _TEXT, "score": _NUMBER, "what": what})
    encoded = _object({"b64": {"type": "string", "contentEncoding": "base64", "description": "A JPEG or PNG."}})
    encoded["additionalProperties"] = False
    array = {
        "type": "object",
        "properties": {"dtype": {"enum": ["float32", "float64"]}, "shape": _list(_WHOLE), "b64": _TEXT, "list": _list({}), "png": _TEXT},
        "required": ["dtype", "shape"],
        "description": "By `encoding`: `b64` (C order, little-endian), `list` (nested) or `png`.",
    }
    explanation = _object(
        {
            "instance": {"type": "integer", "minimum": 0, "description": "Which instance it is of."},
            "target": {"anyOf": [_ref("Label"), {"type": "null"}], "description": "null: all outputs at once."},
            "relevance": {"type": "object", "additionalProperties": _ref("Array"), "description": "By layer."},
            "sum": {"type": ["number", "null"], "description": "Of the input's relevance; null if it overflows."},
            "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "Of the input's relevance: C order, little-endian."},
            "ledger": {"anyOf": [_list(_ref("LedgerRow")), {"type": "null"}]},
            "warnings": _list(_TEXT),
        }
    )
    seen = {"type": ["string", "null"], "contentEncoding": "base64", "contentMediaType": "image/png"}
    predictions = {
        "type": "array",
        "items": _object({"labels": _list(_ref("Label")), "seen": seen, "warnings": _list(_TEXT)}, "seen", "warnings"),
    }
    answer = {"model_name": {"const": name}, "model_version": _TEXT, "predictions": predictions}
    provenance = {"type": "object", "description": "What the numbers were computed from: versions, weights, rules, preprocessing."}
    preset = _object({"name": _TEXT, "summary": _TEXT, "group": _TEXT, "source": _TEXT, "dialect": _TEXT, "ledger": {"type": "boolean"}})
    tensor = _object({"name": _TEXT, "datatype": {"const": "FP32"}, "shape": _list(_WHOLE)})
    return {
        "Error": _object({"error": _TEXT, "code": {"enum": list(CODES)}, "request_id": _TEXT}),
        "Label": label,
        "LedgerRow": ledger_row,
        "Array": array,
        "Explanation": explanation,
        "Instance": {"anyOf": [encoded, _nested(model.input_shape)], "description": "An image, or a preprocessed tensor as nested lists."},
        **{f"{verb.capitalize()}Request": _request(verb, model, settings) for verb in ("predict", "explain")},
        "PredictResponse": _object({**answer, "provenance": provenance}),
        "ExplainResponse": _object({**answer, "explanations": _list(_ref("Explanation")), "provenance": provenance}),
        "Preset": preset,
        "Composites": _object({"composites": _list(_ref("Preset"))}),
        "Models": _object({"models": _list(_TEXT)}),
        "ModelState": _object({"name": {"const": name}, "ready": {"type": "boolean"}}),
        "Server": _object({"name": {"const": "nplrp"}, "version": _TEXT, "extensions": _list(_TEXT)}),
        "Live": _object({"live": {"const": True}}),
        "Ready": _object({"ready": {"const": True}}),
        "ModelMetadata": _object(
            {"name": {"const": name}, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(tensor), "outputs": _list(tensor)}
        ),
        "Info": _object(
            {
                "model": {"const": name},
                "version": _TEXT,
                "input": _object(
                    {"height": _WHOLE, "width": _WHOLE, "shape": _list(_WHOLE), "mode": _TEXT, "source": _TEXT, "resample": _TEXT}
                ),
                "classes": _list(_object({"unit": _WHOLE, "id": _TEXT, "name": _TEXT})),
                "scores": _TEXT,
                "composites": _list(_ref("Preset")),
                "dialects": _list(_object({"name": _TEXT, "summary": _TEXT})),
                "starts": _list(_TEXT),
                "layers": _list(_TEXT),
                "reads": {"type": "object", "additionalProperties": _list(_TEXT), "description": "What each layer reads, by name."},
                "defaults": {"type": "object"},
                "limits": {"type": "object", "additionalProperties": _NUMBER},
                "sample": _TEXT,
                "versions": {"type": "object", "additionalProperties": _TEXT},
            }
        ),
    }


def _request(verb: str, model: Model, settings: Settings) -> Schema:
    parameters = {"type": "object", "properties": _parameters(verb, model, settings), "additionalProperties": False}
    instances = {"type": "array", "items": _ref("Instance"), "minItems": 1, "maxItems": settings.max_instances}
    return {
        "type": "object",
        "properties": {"instances": instances, "parameters": parameters},
        "required": ["instances"],
        "additionalProperties": False,
    }
