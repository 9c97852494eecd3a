"""Errors against float64: layer by layer beside PyTorch's in channels_last, then whole heatmaps, decisions and values apart.

On the random weights, and on the demonstration's trained ones if they are installed.
"""

import numpy as np
from coordinator import difference
from networks import describe, write_merged
from protocol import images
from report import print_table

COLUMNS = {"layer": "layer", "": "what", "nplrp rms": "ours", "torch rms": "torch", "times torch": "ratio"}
COLUMNS |= {"nplrp max": "ours_max", "torch max": "torch_max"}
MAP_COLUMNS = {"rule": "rule", "nplrp": "nplrp", "nplrp, float64's decisions": "imposed", "zennit": "zennit"}
MAP_COLUMNS |= {"zennit channels_last": "zennit_last", "": "map"}


def run(setup):
    """Measure random and trained weights."""
    found = {"random": _measure(setup, "random weights", setup.weights, setup.network, images(1))}
    try:
        from nplrp.demo import demo_image, demo_model
        from nplrp.images import load_pixels, normalize

        model = demo_model()
        x = normalize(load_pixels(demo_image(), model), model.preprocessing.mode)
        weights, table = setup.folder / "demo.h5", setup.folder / "demo.json"
        write_merged(model, weights)
        describe(weights, table)
        found["trained"] = _measure(setup, "trained weights (nplrp demo)", weights, table, x)
    except Exception as error:  # the extra isn't installed, or can't be had offline
        print(f"without trained weights: {type(error).__name__}: {error}", flush=True)
    return found


def _measure(setup, title, weights, network, x):
    import nplrp

    model = nplrp.load(weights)
    workers = setup.start(["nplrp", "torch", "zennit"], max(setup.threads), network)
    try:
        parts = {"layers": _layers, "maps": _maps, "decisions": _decisions}
        found = {name: part(setup, workers, model, x) for name, part in parts.items()}
    finally:
        for worker in workers.values():
            worker.close()
    print_table(f"error of single layers against float64, {title}", COLUMNS, found["layers"])
    worst = max((row["ratio"] for row in found["layers"] if row.get("ratio")), default=None)
    if worst is not None:
        print(f"worst layer: {worst:.2f} times torch channels_last (rms)", flush=True)
    print_table(f"error of whole heatmaps against the same in float64, {title}", MAP_COLUMNS, found["maps"])
    columns = {"layer": "layer", "decisions": "count", "nplrp": "nplrp", "torch": "torch", "torch channels_last": "torch_last"}
    print_table(f"decisions that differ from float64's, {title}", columns, found["decisions"])
    return found


def _layers(setup, workers, model, x):
    """Compare each conv's and dense layer's forward, and each conv's transpose, on the same inputs."""
    import nplrp

    exact = nplrp.forward(model, x, "float64", "direct")
    given, names = {}, list(exact)
    rng = np.random.default_rng(2)
    for layer in model:
        if layer.kind in ("conv", "dense"):
            given[layer.name] = exact[names[names.index(layer.name) - 1]].astype(np.float32)
        if layer.kind == "conv" and layer.input_shape[2] > 3:
            s = rng.standard_normal((len(x), *layer.output_shape)).astype(np.float32)
            given[f"{layer.name}.s"] = s * (exact[layer.name] > 0)
    inputs = setup.folder / "inputs.npz"
    np.savez(inputs, **given)
    found = {}
    for kind in ("nplrp", "torch"):
        if kind in workers:
            outputs = setup.folder / f"{kind}.npz"
            workers[kind].ask("accuracy", inputs=str(inputs), outputs=str(outputs))
            with np.load(outputs) as arrays:
                found[kind] = dict(arrays)
    rows = []
    for key in given:
        reference = found["nplrp"][f"{key}.64"]
        row = {"layer": key.removesuffix(".s"), "what": "transpose" if key.endswith(".s") else "forward"}
        for kind, name in (("nplrp", "ours"), ("torch", "torch")):
            if kind in found:
                each = found[kind][f"{key}.32"]
                row[name] = difference(each, reference)
                row[f"{name}_max"] = float(np.max(np.abs(each - reference)) / np.max(np.abs(reference)))
        if "torch" in row:
            row["ratio"] = row["ours"] / row["torch"]
        rows.append(row)
    return rows


def _maps(setup, workers, model, x):
    """Compare float32 heatmaps with float64's, each system with itself."""
    import nplrp

    picture = setup.folder / "x.npz"
    np.savez(picture, x=x)
    rows = []
    for rule in ("epsilon", "zplus", "alpha_beta"):
        exact = nplrp.explain(model, x, rule, dtype="float64").relevance
        row = {"rule": rule, "nplrp": difference(nplrp.explain(model, x, rule).relevance, exact)}
        row["imposed"] = difference(_with_decisions(model, x, rule), exact)
        if "zennit" in workers:
            maps = {}
            for name, more in (("exact", {"dtype": "float64"}), ("zennit", {}), ("zennit_last", {"channels_last": True})):
                path, worker = setup.folder / "map.npy", workers["zennit"]
                worker.ask("prepare", job=name, kind="explain", threads=max(setup.threads), rule=rule, x=str(picture), **more)
                worker.ask("save", job=name, path=str(path))
                worker.ask("drop", job=name)
                maps[name] = np.load(path)
            row |= {name: difference(maps[name], maps["exact"]) for name in ("zennit", "zennit_last")}
            row["map"] = f"differs from Zennit's, both float64, by {difference(exact, maps['exact']):.1e}"
        rows.append(row)
    return rows


def _with_decisions(model, x, rule):
    """Return float32 relevance of a pass whose ReLUs and pools decided as they do in float64."""
    from dataclasses import replace

    from nplrp import layers, lrp
    from nplrp.plan import make_plan
    from nplrp.rules import AS_IS

    exact_plan, plan = make_plan(model, rule, "float64"), make_plan(model, rule)
    exact = lrp.run_forward(exact_plan.steps, x.astype(np.float64))
    activations = [x]
    logits = None
    for i, step in enumerate(plan.steps):
        a, decided = activations[-1], exact.activations[i + 1]
        if step.kind == "maxpool":
            n, height, width, channels = decided.shape
            places = exact.held[i].astype(np.intp)
            size, stride = step.window.size, step.window.stride
            rows = np.arange(height)[None, :, None, None] * stride[0] + places // size[1]
            columns = np.arange(width)[None, None, :, None] * stride[1] + places % size[1]
            a = a[np.arange(n)[:, None, None, None], rows, columns, np.arange(channels)]
        elif step.kind in ("reshape", "identity", "pad"):
            a = layers.reshape(step, a)
        else:
            a = layers.forward(step, [a], [AS_IS], AS_IS)
        if step.activation == "softmax":
            logits, a = a, layers.softmax(a)
        if step.activation == "relu":
            a = np.where(decided > 0, np.where(a > 0, a, decided.astype(np.float32)), np.float32(0))
        activations.append(np.ascontiguousarray(a))
    logits = activations[-1] if logits is None else logits
    trace = replace(exact, activations=tuple(activations), logits=logits, denominators={})
    start = np.where(logits == logits.max(-1, keepdims=True), logits, np.float32(0))
    return lrp.run_backward(plan, trace, start)


def _decisions(setup, workers, model, x):
    """Count ReLU signs and pool winners that differ from float64's."""
    from nplrp import lrp
    from nplrp.plan import make_plan

    traces = {}
    for bits in (32, 64):
        plan = make_plan(model, "notebook", f"float{bits}")
        traces[bits] = lrp.run_forward(plan.steps, x.astype(f"float{bits}"))
    torch = {}
    if "torch" in workers:
        picture, path = setup.folder / "x.npz", setup.folder / "decisions.npz"
        np.savez(picture, x=x)
        for flag in (False, True):
            workers["torch"].ask("decisions", inputs=str(picture), outputs=str(path), channels_last=flag)
            with np.load(path) as arrays:
                torch[flag] = dict(arrays)
    rows, counts = [], {"relu": 0, "pool": 0}
    for i, step in enumerate(plan.steps):
        if step.kind == "maxpool":
            key, ours, exact = "pool", *(traces[bits].held[i] for bits in (32, 64))
        elif step.kind == "conv" and step.activation == "relu":
            key, ours, exact = "relu", *(traces[bits].activations[i + 1] > 0 for bits in (32, 64))
        else:
            continue
        name = f"{key}{counts[key]}"
        counts[key] += 1
        row = {"layer": step.name, "count": int(exact.size), "nplrp": int(np.sum(ours != exact))}
        for flag, column in ((False, "torch"), (True, "torch_last")):
            if flag in torch:
                row[column] = int(np.sum(torch[flag][name] != exact))
        rows.append(row)
    return rows
