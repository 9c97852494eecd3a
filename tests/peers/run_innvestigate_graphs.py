"""Write what iNNvestigate computes on networks that aren't chains.

    python run_innvestigate_graphs.py graphs_networks.npz out.npz [NETWORK ...]

Needs innvestigate 2.1 with tensorflow < 2.15 and numpy < 2, not nplrp.

Keys: NETWORK[VARIANT]/CASE, NETWORK/logits; maps in the form of `graph_file.stored`.

| variant | what |
|---|---|
| (none) | the analyzer of that name as it comes |
| unchecked | the same with disable_model_checks, where the check refuses the network |
| dedicated | LRP(rule=..., bn_layer_rule=None), its Z rule for batch norms; get_config()["axis"] is made a number, else it raises |
| folded, folded,unchecked | on the network with batch norms folded in float64 where one can (`Network.folded`) |

The start is the target's logit, 1 for the gradient family; the target's logit under a ReLU in deep_taylor.
`failed` is JSON: {key: message}; `order` is JSON: {NETWORK: names of model.layers, whose places until_idx counts}; `versions` is JSON.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from graph_file import read, stored
from graph_forward import forward
from keras_graph import build

tf.compat.v1.disable_eager_execution()
import innvestigate  # noqa: E402
import tensorflow.keras as keras  # noqa: E402
from innvestigate.analyzer.base import NotAnalyzeableModelException  # noqa: E402
from keras.src.engine import base_layer_utils  # noqa: E402

keras.backend.set_floatx("float64")
tf.get_logger().setLevel("ERROR")
base_layer_utils._UNSAFE_GRAPH_OP_LAYER_CREATION = True  # else Keras evaluates every constant when it is read: five times slower, same bits

RULES = ("z", "epsilon", "w_square", "flat", "z_plus", "z_plus_fast", "alpha_2_beta_1", "alpha_2_beta_1_IB", "alpha_1_beta_0")
CASES = {
    name: (name, {})
    for name in (
        *(f"lrp.{rule}" for rule in RULES),
        *(f"lrp.sequential_preset_{which}" for which in ("a", "b", "a_flat", "b_flat")),
        *("deep_taylor", "gradient", "input_t_gradient", "guided_backprop", "deconvnet"),
    )
}
CASES |= {
    "lrp.epsilon(epsilon=0.25)": ("lrp.epsilon", {"epsilon": 0.25}),
    "lrp.epsilon(bias=none)": ("lrp.epsilon", {"bias": False}),
    "lrp.alpha_beta(alpha=3.0)": ("lrp.alpha_beta", {"alpha": 3, "beta": 2}),
    "lrp.sequential_preset_b_flat_until_idx(until_idx=4)": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer_idx": 4}),
    "deep_taylor.bounded(low=-3.0, high=3.0)": ("deep_taylor.bounded", {"low": -3.0, "high": 3.0}),
}
DEDICATED = {
    f"lrp(rule={rule})": ("lrp", {"rule": rule, "bn_layer_rule": None})
    for rule in ("Z", "Epsilon", "WSquare", "Flat", "Alpha1Beta0", "Alpha2Beta1", "ZPlus")
}


class NumberedAxis(keras.layers.BatchNormalization):
    """A batch norm whose config names its axis by a number, as iNNvestigate expects it."""

    def get_config(self):
        """Return the config with a plain axis."""
        config = super().get_config()
        axis = config["axis"]
        return {**config, "axis": int(axis[0]) if isinstance(axis, (list, tuple)) or hasattr(axis, "__iter__") else int(axis)}


def fresh_graph():
    """Forget all graphs; the phase is that of inference, as batch norms need it."""
    keras.backend.clear_session()
    keras.backend.set_learning_phase(0)


def explain(network, name, settings):
    """Return [n, ...]: one analyzer's map in a graph of its own, with which the time that each takes doesn't grow."""
    fresh_graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer = innvestigate.create_analyzer(name, build(network), neuron_selection_mode="index", **settings)
        found = analyzer.analyze(network.x, network.targets)
    if not np.isfinite(found).all():
        raise FloatingPointError(f"{int((~np.isfinite(found)).sum())} of {found.size} values aren't finite")
    if np.abs(found).max() < 1e-12:
        raise FloatingPointError(f"nothing but rounding is left: {np.abs(found).max():.1e}")
    return found


def numbered_axes(call, *args):
    """Call with Keras's batch norm in the models replaced by `NumberedAxis`."""
    import keras_graph

    plain, keras_graph.kl.BatchNormalization = keras_graph.kl.BatchNormalization, NumberedAxis
    try:
        return call(*args)
    finally:
        keras_graph.kl.BatchNormalization = plain


def attempts(network):
    """Yield (variant, network, case, (name, settings), how to call)."""
    plain = lambda call, *args: call(*args)  # noqa: E731
    for case, what in CASES.items():
        yield "", network, case, what, plain
    if any(layer["kind"] == "batchnorm" for layer in network.layers):
        yield "dedicated as it comes", network, "lrp(rule=Z)", DEDICATED["lrp(rule=Z)"], plain
        for case, what in DEDICATED.items():
            yield "dedicated", network, case, what, numbered_axes
    if network.pairs():
        folded = network.folded()
        for case, what in CASES.items():
            yield "folded", folded, case, what, plain


def bracketed(*parts):
    """["folded", ""] -> "[folded]" """
    return f"[{','.join(filter(None, parts))}]" if any(parts) else ""


def save(target, network, found, texts):
    """Write a network's maps beside those of other networks in the file."""
    kept = {}
    if Path(target).exists():
        with np.load(target) as file:
            mine = (f"{network}/", f"{network}[")
            kept = {key: file[key] for key in file.files if "/" in key and not key.startswith(mine)}
            for name, text in texts.items():
                before = json.loads(str(file[name]))
                others = {key: value for key, value in before.items() if key != network and not key.startswith(mine)}
                texts = {**texts, name: {**others, **text}}
    np.savez_compressed(target, **kept, **found, **{key: np.array(json.dumps(value)) for key, value in texts.items()})


def message(error):
    """Return an error's kind and first line."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"


def run(network):
    """Return (maps, messages of failures) of every case and variant of a network."""
    found, failed, name = {}, {}, network.name
    try:
        logits = build(network).predict(network.x)
    except Exception as error:
        return {}, {f"{name}/logits": message(error)}
    wanted = forward(network)[network.layers[-1]["name"]]
    assert np.allclose(logits, wanted, rtol=1e-13, atol=1e-14), (name, np.abs(logits - wanted).max())
    found[f"{name}/logits"] = logits
    for variant, described, case, (analyzer, settings), call in attempts(network):
        key = f"{name}{bracketed(variant)}/{case}"
        try:
            found[key] = stored(call(explain, described, analyzer, settings))
        except (NotImplementedError, NotAnalyzeableModelException) as refusal:
            failed[key] = message(refusal)
            key = f"{name}{bracketed(variant, 'unchecked')}/{case}"
            try:
                found[key] = stored(call(explain, described, analyzer, {**settings, "disable_model_checks": True}))
            except Exception as error:
                failed[key] = message(error)
        except Exception as error:
            failed[key] = message(error)
    return found, failed


def main(source, target, *names):
    """Run every case on every network and variant; with names, only those networks, and keep the others' results in the file."""
    versions = {"innvestigate": "2.1.2", "tensorflow": tf.__version__, "numpy": np.__version__}
    for network in read(source).values():
        if names and network.name not in names:
            continue
        fresh_graph()
        order = [layer.name for layer in build(network).layers]
        found, failed = run(network)
        save(target, network.name, found, {"failed": failed, "order": {network.name: order}, "versions": versions})
        print(network.name, len(found), failed, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
