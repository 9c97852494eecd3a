"""The routes, as a Starlette application."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from nplrp import __version__
from nplrp.errors import NplrpError, WeightsError
from nplrp.heatmaps import encode_png
from nplrp.model import INPUT, Model
from nplrp.rules.composites import STARTS
from nplrp.rules.dialects import DIALECTS
from nplrp.rules.presets import presets
from nplrp.scores import scoring_of
from nplrp.serve import answers, metrics
from nplrp.serve.bodies import MULTIPART, Body, Inputs, body_kind, read_form, read_inputs
from nplrp.serve.budget import Budget, Share
from nplrp.serve.engine import Engine, Result
from nplrp.serve.front import Front, Record
from nplrp.serve.lane import Full, Job, Lane, Overdue
from nplrp.serve.openapi import openapi
from nplrp.serve.origins import Origins
from nplrp.serve.problems import Problem, let_go, problem_of, try_again
from nplrp.serve.settings import Settings
from nplrp.serve.startup import prepare
from nplrp.serve.wanted import Wanted
from nplrp.targets import classes_of

log = logging.getLogger("nplrp.serve")

_PAGE = resources.files("nplrp.serve") / "page"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
#: The share of --deadline that requests may have to wait: those beyond are told to come back before their images are decoded.
_PATIENCE = 0.8
#: Bytes that are sent at once; a client must take them within --send-timeout.
_PIECE = 1 << 16


class Service:
    """A model being served: what the routes share.

    Parameters
    ----------
    model : Model
    settings : Settings
    sample : callable
        Returns the sample picture, uint8 [H, W, 3].

    Attributes
    ----------
    state : str
        "starting", "ready", "draining" or "failed".
    failure : Exception or None
        Why the start failed.
    """

    def __init__(self, model: Model, settings: Settings, sample: Callable[[], np.ndarray]) -> None:
        self.model, self.settings, self.sample = model, settings, sample
        self.name = settings.name or "".join(c if c.isalnum() or c in "._-" else "-" for c in model.name) or "model"
        self.metrics = metrics.Metrics()
        self.engine = Engine(model, settings.batch, settings.max_prepared)
        self.state = "starting"
        self.failure: Exception | None = None
        self.accepted: set[asyncio.Task[Any]] = set()  # requests that must be answered before the server may stop
        self._over = False
        self.budget = Budget(settings.max_memory)
        self._buffered = self._held = 0  # bytes of bodies; of answers, estimated
        self.at_work: set[int] = set()  # threads of the pool
        self._sample: bytes | None = None

    # Life

    @asynccontextmanager
    async def running(self, _: Any) -> AsyncIterator[None]:
        """Start the threads, prepare, and stop them again."""
        settings = self.settings
        self.lane = Lane(self._compute, settings.queue, settings.batch, self._depth_changed)
        self.pool = ThreadPoolExecutor(settings.decoders, "nplrp-decoder")
        background = [asyncio.create_task(self._start()), asyncio.create_task(self._watch_memory())]
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            self.metrics.ready.set(0)
            await asyncio.to_thread(self.lane.stop, 2.0)
            self.pool.shutdown(wait=False, cancel_futures=True)

    async def _start(self) -> None:
        """Check and warm up in the lane's own thread, then be ready."""
        try:
            job = self.lane.submit(None, None, float("inf"))
            await asyncio.wrap_future(job.future)
        except NplrpError as error:
            self.fail(error)
        except Exception as error:
            self.state, self.failure = "failed", error
            log.error("can't serve", exc_info=error)
        else:
            if self.state == "starting":
                self.state = "ready"
                self.metrics.ready.set(1)
                log.info("ready: serving %s", self.name)

    def fail(self, error: NplrpError) -> None:
        """Be ready no more, and end, because of an error that no request has caused."""
        if self.state != "failed":
            self.state, self.failure = "failed", error
            self.metrics.ready.set(0)
            log.error("can't serve: %s", error)

    def _compute(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """Do the lane's work: first of all `prepare`."""
        if jobs[0].kind is None:
            prepare(self.engine, self.settings)
            return [None]
        return self.engine.compute(jobs)

    async def _watch_memory(self) -> None:
        while True:
            self.metrics.measure_memory()
            await asyncio.sleep(5)

    def drain(self) -> None:
        """Stop being ready, and take no more work."""
        self.state = "draining"
        self.metrics.ready.set(0)

    @property
    def busy(self) -> bool:
        """Whether requests have to be answered, or clients are taking large answers."""
        return bool(self.accepted) or self._held > 0

    def stop_waiting(self) -> None:
        """Answer with 503 what hasn't been answered yet."""
        self._over = True
        for task in self.accepted:
            task.cancel()

    def _depth_changed(self, waiting: int, _: int) -> None:
        self.metrics.depth.set(waiting)

    # Work

    async def work(self, request: Request, verb: str) -> Response:
        """Answer a `:predict` or `:explain`."""
        record: Record = request.scope["record"]
        self._check_open(request)
        kind = answers.choose_type(request.headers.get("accept", "")) if verb == "explain" else answers.JSON
        deadline = record.arrived + self.settings.deadline
        task = asyncio.current_task()
        assert task is not None
        self.accepted.add(task)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._work(request, verb, kind, deadline)
        except (TimeoutError, Overdue):
            raise Problem("deadline", f"the request can't be answered within {self.settings.deadline:g} seconds (--deadline)") from None
        except asyncio.CancelledError:
            if not self._over:
                raise
            task.uncancel()
            raise Problem("draining", "the server has stopped before the request was computed") from None
        finally:
            self.accepted.discard(task)

    async def _work(self, request: Request, verb: str, kind: str, deadline: float) -> Response:
        record: Record = request.scope["record"]
        share = self.budget.share()
        held = ExitStack()
        held.callback(share.close)
        size = 0
        try:
            body, size = await self._read(request, share)
            inputs = await self._aside(read_inputs, body, self.model, self.settings, verb, deadline, share)
            del body
            share.give(share.held - inputs.held)
            if verb == "explain":
                answers.check_picture(inputs.wanted, len(inputs.x) * inputs.wanted.maps(), self.model, kind)
                self._hold(inputs.size, held)
                share.take(2 * inputs.size)  # as numbers and as text, or as text in pieces and as a whole
            record.facts["instances"] = len(inputs.x)
            result = await self._computed(request, verb, inputs, deadline)
            if kind == answers.JSON:
                content = await self._aside(answers.as_json, self.model, self.name, result, inputs, verb, deadline)
            elif kind == answers.PNG:
                content = await self._aside(answers.as_png, result, inputs)
            else:
                content = await self._aside(answers.as_npy, result, inputs)
            share.give(max(share.held - len(content), 0))
            return Pieces(content, kind, held.pop_all())
        finally:
            self._buffered -= size
            held.close()

    def _hold(self, size: int, held: ExitStack) -> None:
        """Count an answer's bytes until it has been sent; one is always let through."""
        if self._held and self._held + size > self.settings.max_answers:
            wait = self.lane.estimate()
            raise try_again("queue_full", "the answers to other requests take all the memory there is for them (--max-answers)", wait)
        self._held += size

        def release() -> None:
            self._held -= size

        held.callback(release)

    def _check_open(self, request: Request) -> None:
        """Refuse a request before its body is read."""
        if request.path_params["name"] != self.name:
            raise Problem("no_model", f"there is no model {request.path_params['name'][:100]!a}; there is {self.name!r}")
        if self.state == "draining":
            raise try_again("draining", "the server is stopping", 5)
        if self.state != "ready":
            raise try_again("not_ready", "the server is starting: weights are checked, kernels compiled", 5)
        if self.lane.full or self.lane.estimate() > _PATIENCE * self.settings.deadline:
            raise self._full()

    def _full(self) -> Problem:
        lane, settings = self.lane, self.settings
        limits = f"the limits are {settings.queue} requests (--queue), and what takes {_PATIENCE * settings.deadline:g} s (--deadline)"
        return try_again("queue_full", f"{lane.depth} requests are waiting, for about {lane.estimate():.1f} s; {limits}", lane.estimate())

    async def _read(self, request: Request, share: Share) -> tuple[Body, int]:
        """Return a request's body, and how many bytes of it are counted as buffered."""
        kind, counted = body_kind(request.headers), 0
        limit, most = self.settings.max_body, self.settings.max_buffered
        too_long = Problem("body_too_large", f"the body is longer than {limit} bytes (--max-body)")
        with suppress(ValueError):
            if int(request.headers.get("content-length", "0")) > limit:
                raise too_long

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal counted
            async for chunk in request.stream():
                counted += len(chunk)
                self._buffered += len(chunk)
                if counted > limit:
                    raise too_long
                if self._buffered > most:
                    raise try_again("queue_full", "the bodies of other requests take all the memory there is for them (--max-buffered)", 1)
                share.take(len(chunk))
                yield chunk

        try:
            async with asyncio.timeout(self.settings.body_timeout):
                if kind == MULTIPART:
                    uploads, texts = await read_form(request.headers, chunks(), self.settings)
                    body = Body(kind, uploads=uploads, texts=_texts(request, texts))
                else:
                    data = b"".join([chunk async for chunk in chunks()])
                    body = Body(kind, data, texts=_texts(request, {}))
        except TimeoutError:
            self._buffered -= counted
            raise Problem(
                "slow_request", f"the body didn't arrive within {self.settings.body_timeout:g} seconds", {"Connection": "close"}
            ) from None
        except BaseException:
            self._buffered -= counted
            raise
        request.scope["record"].facts["bytes_in"] = counted
        return body, counted

    async def _aside(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the pool."""

        def run() -> Any:
            self.at_work.add(threading.get_ident())
            try:
                return function(*arguments)
            except BaseException as error:
                let_go(error)
                raise
            finally:
                self.at_work.discard(threading.get_ident())

        return await asyncio.get_running_loop().run_in_executor(self.pool, run)

    async def _computed(self, request: Request, verb: str, inputs: Inputs, deadline: float) -> Result:
        """Have the lane compute, as long as the client is there and the server may wait."""
        record: Record = request.scope["record"]
        try:
            job = self.lane.submit((verb, inputs), Engine.kind(verb, inputs.wanted), deadline)
        except Full:
            raise self._full() from None
        done = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait([done, gone], return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise ClientDisconnect
            result: Result = done.result()
        except WeightsError as error:  # they were changed while they are in use: no answer would be right from here on
            self.fail(error)
            raise try_again("not_ready", "the model's weights were changed, and the server is stopping", 5) from None
        except NplrpError as error:
            raise problem_of(error) from None
        finally:
            gone.cancel()
            if not done.done():
                done.cancel()
                job.abandon()
        record.facts |= {"queue_ms": round(job.waited * 1000, 1), "compute_ms": round(job.took * 1000, 1)}
        self.metrics.waiting.observe(job.waited)
        self.metrics.compute.labels(verb).observe(job.took)
        return result

    # Facts

    def info(self) -> dict[str, Any]:
        """Return what the page needs to know."""
        model, settings = self.model, self.settings
        height, width = (*model.input_shape, 1)[:2]
        default = Wanted()
        return {
            "model": self.name,
            "version": model.content_hash[:12],
            "input": {"height": height, "width": width, "shape": list(model.input_shape), **vars(model.preprocessing)},
            "classes": [{"unit": i, "id": id_, "name": name} for i, (id_, name) in enumerate(classes_of(model))],
            "scores": scoring_of(model).what,
            "composites": presets(),
            "dialects": [{"name": each.name, "summary": each.system} for each in DIALECTS.values()],
            "starts": list(STARTS),
            "layers": [INPUT, *(layer.name for layer in model)],
            "reads": model.reads,
            "defaults": {"composite": default.composite, "target": None, "encoding": default.encoding, "top": default.top},
            "limits": {
                "max_body": settings.max_body,
                "max_pixels": settings.max_pixels,
                "max_instances": settings.max_instances,
                "max_maps": settings.max_maps,
                "deadline": settings.deadline,
            },
            "sample": "/sample.png",
            "versions": dict(answers.versions()),
        }

    async def sample_png(self) -> bytes:
        """Return the sample picture."""
        if self._sample is None:
            self._sample = await self._aside(lambda: encode_png(self.sample()))
        return self._sample


class Pieces(Response):
    """A response that is sent piece by piece, so that a client that doesn't read holds up no more than one piece."""

    def __init__(self, content: bytes, media_type: str, held: ExitStack) -> None:
        super().__init__(content, media_type=media_type)
        self._held = held  # closed when it has been sent, or never will be

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._held:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            view = memoryview(self.body)
            for start in range(0, max(len(view), 1), _PIECE):
                piece = bytes(view[start : start + _PIECE])
                await send({"type": "http.response.body", "body": piece, "more_body": start + _PIECE < len(view)})


def make_app(service: Service) -> ASGIApp:
    """Return the ASGI application that serves a service."""
    s = service

    # Read once: a server that has no descriptor left still has its page.
    pages = {file.name: file.read_bytes() for file in _PAGE.iterdir() if Path(file.name).suffix in _TYPES}

    async def page(request: Request) -> Response:
        name = request.url.path[1:] or "index.html"
        return Response(pages[name], media_type=_TYPES[Path(name).suffix])

    async def sample(_: Request) -> Response:
        return Response(await s.sample_png(), media_type="image/png")

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        if s.state != "ready":
            raise try_again("draining" if s.state == "draining" else "not_ready", f"the server is {s.state}", 5)
        return JSONResponse({"ready": True})

    async def model_ready(request: Request) -> Response:
        check_name(request)
        await ready(request)
        return JSONResponse({"name": s.name, "ready": True})

    async def models(_: Request) -> Response:
        return JSONResponse({"models": [s.name]})

    async def model(request: Request) -> Response:
        if request.path_params["name"] in (f"{s.name}:predict", f"{s.name}:explain"):
            raise HTTPException(405, headers={"Allow": "POST"})
        check_name(request)
        return JSONResponse({"name": s.name, "ready": s.state == "ready"})

    async def server(_: Request) -> Response:
        return JSONResponse({"name": "nplrp", "version": __version__, "extensions": []})

    async def model_metadata(request: Request) -> Response:
        check_name(request)
        return JSONResponse(
            {
                "name": s.name,
                "versions": [s.model.content_hash[:12]],
                "platform": "nplrp",
                "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, *s.model.input_shape]}],
                "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, *s.model.output_shape]}],
            }
        )

    async def composites(_: Request) -> Response:
        return JSONResponse({"composites": presets()})

    async def info(_: Request) -> Response:
        return JSONResponse(s.info())

    async def numbers(_: Request) -> Response:
        return Response(await asyncio.to_thread(s.metrics.text), media_type=metrics.CONTENT_TYPE)

    async def description(_: Request) -> Response:
        return JSONResponse(openapi(s.name, s.model, s.settings))

    async def predict(request: Request) -> Response:
        return await s.work(request, "predict")

    async def explain(request: Request) -> Response:
        return await s.work(request, "explain")

    def check_name(request: Request) -> None:
        if request.path_params["name"] != s.name:
            raise Problem("no_model", f"there is no model {request.path_params['name'][:100]!a}; there is {s.name!r}")

    def route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
        async def named(request: Request) -> Response:
            request.scope["route_name"] = path
            return await endpoint(request)

        return Route(path, named, methods=[method], name=endpoint.__name__)

    routes = [
        route("/", page),
        route("/sample.png", sample),
        route("/v1/info", info),
        route("/v1/composites", composites),
        route("/v1/models", models),
        route("/v1/models/{name}:predict", predict, "POST"),
        route("/v1/models/{name}:explain", explain, "POST"),
        route("/v1/models/{name}", model),
        route("/v2", server),
        route("/v2/health/live", live),
        route("/v2/health/ready", ready),
        route("/v2/models/{name}", model_metadata),
        route("/v2/models/{name}/ready", model_ready),
        route("/metrics", numbers),
        route("/openapi.json", description),
        *(route(f"/{name}", page) for name in pages),
    ]
    # A bare router: Starlette's own middlewares would answer errors as text.
    return Front(Router(routes, redirect_slashes=False, lifespan=service.running), service.metrics, Origins(service.settings))


async def _gone(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _texts(request: Request, form: dict[str, str]) -> dict[str, str]:
    """Join a query's parameters and a form's, which count for more."""
    texts: dict[str, str] = {}
    for key, value in request.query_params.multi_items():
        if key in texts:
            raise Problem("bad_parameter", f"the query has the parameter {key[:80]!a} twice")
        texts[key] = value
    return texts | form
