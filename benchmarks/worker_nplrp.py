"""Runs nplrp for the coordinator."""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
from machine_peaks import fma_peak, memory_peak
from networks import conv_stack, random_stack
from protocol import Jobs, images, serve

import nplrp
from nplrp import fused, layers, lrp, outputs
from nplrp.batch import running
from nplrp.batch.job import job_facts, open_job
from nplrp.jit import team
from nplrp.plan import make_plan
from nplrp.stream import Wanted
from nplrp.workspace import Workspace, workspace_of


def main(network):
    """Serve jobs on the weight file that a network table is of."""
    table = json.loads(Path(network).read_text("utf-8"))
    model = nplrp.load(table["file"], architecture=table.get("architecture"))
    stacks, own = {}, model.input_shape[0]

    def net(side, stack=False, blocks=None):
        if side == own and not stack and not blocks:
            return model
        key = side, str(blocks)
        if key not in stacks:
            stacks[key] = random_stack(side, blocks) if blocks else conv_stack(model, side)
        return stacks[key]

    def explain(composite, batch, side=own, dtype="float32", algorithm="auto", stack=False, start=None, blocks=None, target=None):
        chosen = net(side, stack, blocks)
        x = images(batch, side)
        return lambda: nplrp.explain(chosen, x, composite, target, dtype, algorithm, start=start).relevance

    def forward(batch):
        plan, x = make_plan(model, "notebook"), images(batch, own)

        def run():
            with workspace_of(model) as workspace:
                return fused.run_forward(plan, x, workspace).logits.copy()

        return run

    def folder_engine(folder, composite):
        x = nplrp.preprocess(sorted(Path(folder).iterdir()), model)
        return lambda: nplrp.explain(model, x, composite).relevance[:1]

    def folder_batch(folder, composite, pictures=False):
        names, wanted = [str(path) for path in sorted(Path(folder).iterdir())], Wanted((composite,))

        def run():
            with tempfile.TemporaryDirectory() as out:
                job = open_job(Path(out), job_facts(model, wanted, pictures=pictures), names)
                report = running.run(job, Path(out), model, wanted)
                assert (report.done, report.failed) == (len(names), [])
            return np.zeros(1)

        return run

    def folder_command(folder, composite, more=()):
        command = [sys.executable, "-m", "nplrp.cli", "batch", folder, "-w", table["file"], "-c", composite, "-q", *more]
        command += ["--preprocessing", "caffe", *(("--architecture", table["architecture"]) if "architecture" in table else ())]

        def run():
            with tempfile.TemporaryDirectory() as out:
                subprocess.run([*command, "--out", out], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            return np.zeros(1)

        return run

    def predict(batch):
        x = images(batch)
        return lambda: np.array([len(outputs.predict(model, x))])

    def convs(batch, side=224):
        plan, workspace = make_plan(net(side), "notebook"), Workspace()
        a, work = images(batch, side), []
        for step in plan.steps:
            alone = replace(step, inputs=(-1,))
            if step.kind == "conv":
                work.append((alone, a))
            if step.kind in ("conv", "maxpool"):
                a = lrp.run_forward([alone], a).output

        def run():
            queue = layers.queue()  # as in an explanation
            with queue:
                for step, a in work:
                    z, _ = layers.operation(step).fused.forward(step, [a], True, (), workspace)
                    workspace.give(z)
            queue.run()
            return z

        return run

    def profile(threads, rounds, batch, composite):
        """Return per-step seconds of every round, and the machine's peaks, measured in turns."""
        numba.set_num_threads(threads)
        plan, x = make_plan(model, composite), images(batch)
        for _ in range(3):  # then all weights are kept that are going to be
            nplrp.explain(model, x, composite)
        seconds, whole, peaks = {}, [], {"fma": [], "memory": []}
        for _ in range(rounds):
            peaks["fma"].append(fma_peak(threads))
            peaks["memory"].append(memory_peak(threads))
            with timed_layers() as spent:
                start = time.perf_counter()
                nplrp.explain(model, x, composite)
                whole.append(time.perf_counter() - start)
            for key, value in spent.items():
                seconds.setdefault(key, []).append(value)
        steps = [{"direction": direction, "step": step, "seconds": values} for (direction, step), values in seconds.items()]
        return {"steps": steps, "whole": whole, "peaks": peaks, "names": [step.name for step in plan.steps]}

    def facts():
        return {"nplrp": nplrp.__version__, "numba": numba.__version__, "threads": "OpenMP" if team.openmp() else "Python"}

    kinds = {"explain": explain, "forward": forward, "predict": predict, "convs": convs}
    kinds |= {"folder_engine": folder_engine, "folder_batch": folder_batch, "folder_command": folder_command}
    jobs = Jobs(kinds, numba.set_num_threads)
    serve({"facts": facts, "profile": profile, "accuracy": lambda **p: accuracy(model, **p), **jobs.commands()})


class AtOnce:
    """Stands in for a queue of kernels, so that each can be timed; one that is checked keeps no pass to run it again."""

    checked = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self):
        """Nothing waits."""


class timed_layers:
    """Time what `nplrp.layers` does for each step while the block runs: {("forward" | "backward", step or (function)): seconds}."""

    def __enter__(self):
        import inspect

        self.spent, self._depth, self._phase, self._old = {}, 0, "backward", []
        for name, function in inspect.getmembers(layers, inspect.isfunction):
            if not name.startswith("_") and name not in ("threads", "queue"):
                parameters = list(inspect.signature(function).parameters)
                self._replace(layers, name, self._timed(function, name, "step" in parameters and parameters.index("step")))
        run_forward = fused.run_forward

        def marked(*args):
            self._phase = "forward"
            try:
                return run_forward(*args)
            finally:
                self._phase = "backward"

        self._replace(fused, "run_forward", marked)
        operations = {name: self._timed_operation(each) for name, each in layers.OPERATIONS.items()}
        self._replace(fused, "operation", lambda step: operations[step.kind])
        self._replace(layers, "queue", AtOnce)
        return self.spent

    def __exit__(self, *_):
        for module, name, function in self._old:
            setattr(module, name, function)

    def _replace(self, module, name, function):
        self._old.append((module, name, getattr(module, name)))
        setattr(module, name, function)

    def _timed_operation(self, op):
        """Return an operation whose functions of the fused pass, which take the step first, are timed."""

        def of(each, *names):
            return each and replace(each, **{name: self._timed(getattr(each, name), name, 0) for name in names if getattr(each, name)})

        fast = of(op.fused, "forward", "carry", "beside", "whole")
        return replace(of(op, "decide"), fused=fast, routes=of(op.routes, "route", "times"))

    def _timed(self, function, name, place):
        def call(*args, **kwargs):
            if self._depth:
                return function(*args, **kwargs)
            self._depth += 1
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._depth -= 1
                step = args[place].name if place is not False else f"({name})"
                key = self._phase, step
                self.spent[key] = self.spent.get(key, 0.0) + time.perf_counter() - start

        return call


def accuracy(model, inputs, outputs):
    """Run every conv and dense layer, and the transpose of every conv, on given inputs, in float32 and, by definition, in float64.

    Parameters
    ----------
    model : nplrp.Model
    inputs, outputs : path of .npz
        ``NAME`` and ``NAME.s`` in; ``NAME.32``, ``NAME.64``, ``NAME.s.32`` and ``NAME.s.64`` out.
    """
    from nplrp.rules import AS_IS

    found, given = {}, np.load(inputs)
    for bits, algorithm in ((32, "auto"), (64, "direct")):
        for step in make_plan(model, "notebook", f"float{bits}", algorithm).steps:
            if step.name in given:
                a = given[step.name].astype(step.weight.dtype)
                found[f"{step.name}.{bits}"] = layers.forward(step, [a], [AS_IS], AS_IS)
            if f"{step.name}.s" in given:
                s = given[f"{step.name}.s"].astype(step.weight.dtype)
                found[f"{step.name}.s.{bits}"] = layers.transpose(step, s, [AS_IS])[0]
    np.savez(outputs, **found)


if __name__ == "__main__":
    main(sys.argv[1])
