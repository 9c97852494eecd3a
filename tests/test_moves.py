"""What only moves numbers: by hand, by its laws, and in networks with branches where the fused pass is the page."""

import numpy as np
import pytest

import nplrp
from nplrp import layers, lrp
from nplrp.errors import ModelError
from nplrp.layers import Layer, Window
from nplrp.model import build
from nplrp.plan import make_plan
from tests import laws
from tests.networks import dense, images, plain, pool, random_kernel


def moving(kind, *shapes, pads=None, **options):
    """One step, from its inputs' shapes."""
    sources = [plain(f"view{i}", "reshape", options={"shape": list(shape)}, inputs=("input",)) for i, shape in enumerate(shapes)]
    same = [np.prod(shape) for shape in shapes]
    assert len(set(same)) == 1
    one = Layer("l", kind, pads=pads, options=options, inputs=tuple(each.name for each in sources))
    return laws.steps_of(build((int(same[0]),), [*sources, one]))[-1]


def result(kind, a, **options):
    step = moving(kind, a.shape, **options)
    laws.adjoint_of_moves(step)
    return layers.move(step, a[None])[0]


A = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(float)


def test_each_by_hand():
    assert np.array_equal(result("reshape", A, shape=[4, -1]), A.reshape(4, 6))
    assert np.array_equal(result("permute", A, dims=[3, 1, 2]), np.moveaxis(A, 2, 0))
    assert np.array_equal(result("permute", A[0], dims=[2, 1]), A[0].T)
    assert np.array_equal(result("crop", A, pads=(1, 0, 0, 2)), A[1:, :1])
    assert np.array_equal(result("pad", A, pads=(1, 0, 0, 2)), np.pad(A, ((1, 0), (0, 2), (0, 0))))
    assert np.array_equal(result("upsample", A, size=[2, 3]), A.repeat(2, 0).repeat(3, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_joins_along_any_axis(axis):
    step = moving("concatenate", (2, 3, 4), (2, 3, 4), axis=axis)
    laws.adjoint_of_moves(step)
    inputs = [np.arange(24).reshape(1, 2, 3, 4) + 100.0 * i for i in range(len(step.input_shapes))]
    joined = layers.operation(step).gather(step, inputs)
    assert np.array_equal(joined, np.concatenate(inputs, axis=axis + 1))
    assert all(np.array_equal(a, b) for a, b in zip(layers.scatter(step, joined), inputs, strict=True))


def test_inputs_of_different_lengths_are_joined():
    views = [plain("low", "crop", pads=(0, 3, 0, 0), inputs=("input",)), plain("high", "crop", pads=(2, 0, 0, 0), inputs=("input",))]
    model = build((5, 2, 3), [*views, Layer("l", "concatenate", inputs=("low", "input", "high"), options={"axis": 0})])
    x = images(0, 2, (5, 2, 3))
    assert np.array_equal(nplrp.forward(model, x, dtype="float64")["l"], np.concatenate([x[:, :2], x, x[:, 2:]], axis=1))


@pytest.mark.parametrize(
    ("kind", "shapes", "options", "message"),
    [
        ("reshape", [(2, 3, 4)], {"shape": [5, 5]}, r"can't reshape \(2, 3, 4\), which has 24 numbers, to \(5, 5\)"),
        ("reshape", [(2, 3, 4)], {"shape": [-1, -1]}, "can't reshape"),
        ("reshape", [(2, 3, 4)], {"shape": [-1, 7]}, "can't reshape"),
        ("reshape", [(2, 3, 4)], {}, "has no shape"),
        ("permute", [(2, 3, 4)], {"dims": [1, 2]}, r"permutes axes \(1, 2\), but gets \(2, 3, 4\): expected each of 1 to 3 once"),
        ("permute", [(2, 3, 4)], {"dims": [1, 1, 2]}, "expected each of 1 to 3 once"),
        (
            "crop",
            [(2, 3, 4)],
            {"pads": (1, 1, 0, 0)},
            r"'l' \(crop\) doesn't fit: .* \(2, 3, 4\), its output would have \(0",
        ),
        ("upsample", [(6, 4)], {"size": [2, 2]}, r"needs an image \(H, W, C\), but gets \(6, 4\)"),
        (
            "concatenate",
            [(2, 3, 4), (4, 3, 2)],
            {"axis": 0},
            r"joins along axis 0 .*, but gets 'view0' \(2, 3, 4\), 'view1' \(4, 3, 2\)",
        ),
        ("concatenate", [(2, 3, 4), (6, 4)], {"axis": 2}, "joins along axis 2"),
        ("concatenate", [(2, 3, 4), (2, 3, 4)], {"axis": 3}, "joins along axis 3"),
        ("concatenate", [(2, 3, 4)], {"axis": 0}, r"layer 'l' \(concatenate\) has 1 input, expected 2 or more"),
    ],
)
def test_what_does_not_fit(kind, shapes, options, message):
    with pytest.raises(ModelError, match=message):
        moving(kind, *shapes, **options)


# --- in networks ------------------------------------------------------------------------------------------------------


def inception(seed=0):
    """[n, 3, 12, 10] -> [n, 5]: channels first, a crop, branches that are joined along channels and rows, an upsampled one, ReLUs."""
    rng = np.random.default_rng(seed)

    def block(name, source, channels, filters, size=3, **more):
        return Layer(
            name,
            "conv",
            activation="relu",
            window=Window((size, size), padding="same", **more),
            arrays={
                "kernel": random_kernel(rng, size, size, channels, filters).astype(np.float32),
                "bias": rng.normal(size=filters).astype(np.float32),
            },
            inputs=(source,),
        )

    layers_ = [
        plain("last", "permute", options={"dims": [2, 3, 1]}),
        block("stem", "last", 3, 6),
        plain("crop", "crop", pads=(1, 1, 0, 2), inputs=("stem",)),
        block("one", "crop", 6, 4, 1),
        block("three", "crop", 6, 5),
        Layer("half", "maxpool", window=Window((2, 2), (2, 2)), inputs=("crop",)),
        plain("twice", "upsample", "relu", options={"size": [2, 2]}, inputs=("half",)),
        Layer("channels", "concatenate", inputs=("one", "three", "twice", "one"), options={"axis": 2}),
        plain("pad", "pad", pads=(0, 1, 2, 0), inputs=("channels",)),
        block("more", "pad", 19, 7),
        pool("pool", "maxpool", Window((3, 3), (2, 2))),
        plain("part", "crop", pads=(1, 0, 0, 0), inputs=("pool",)),
        Layer("rows", "concatenate", activation="relu", inputs=("pool", "part"), options={"axis": 0}),
        plain("fold", "reshape", options={"shape": [-1, 14]}),
        plain("flat", "flatten"),
        dense("top", random_kernel(rng, 9 * 4 * 7, 5), rng.normal(size=5), "linear"),
    ]
    return build((3, 12, 10), layers_, "inception")


COMPOSITES = ("notebook", "epsilon", "epsilon_plus", "alpha_beta", "gamma")


@pytest.mark.parametrize("composite", COMPOSITES)
def test_laws_in_a_network(composite):
    model, x = inception(), images(3, 3, (3, 12, 10))
    loose = {"alpha_beta": 1e-13}.get(composite)  # a * (c + d) for a * c + a * d
    laws.fused_is_the_page(model, x, composite, "float64", loose)
    laws.batch_is_singles(model, x, composite)
    laws.any_threads(model, x, composite)
    ledger = laws.ledger_balances(model, x, composite)
    assert set(ledger["channels"].edges) == {"one", "three", "twice"}


def test_zero_rules_conserve_through_moves():
    model, x = inception(), images(4, 2, (3, 12, 10))
    explanation = nplrp.explain(model, x, "zero", dtype="float64")
    assert np.abs(explanation.relevance).max() > 0
    shown = explanation.relevances
    assert shown["stem"][:, 0].any() is np.False_  # cut off
    assert np.array_equal(shown["fold"].reshape(2, 9, 4, 7), shown["rows"])
    assert np.array_equal(shown["pool"][:, 0], shown["rows"][:, 0])


def test_kinds_that_move_are_queued_but_for_permute():
    plan = make_plan(inception(), "epsilon")
    queued = {fusion.step.kind: fusion.queued for fusion in nplrp.fused.fusions(plan)}
    assert {kind for kind, each in queued.items() if each} >= {"pad", "crop", "upsample", "concatenate", "conv", "maxpool"}
    assert not queued["permute"]


def test_content_hash_and_description_tell_moves_apart():
    models = [build((2, 3, 4), [plain("l", "crop", pads=(1, 0, 0, 0))]), build((2, 3, 4), [plain("l", "crop", pads=(0, 1, 0, 0))])]
    models += [build((2, 3, 4), [plain("l", "upsample", options={"size": size})]) for size in ([1, 2], [2, 1])]
    models += [build((2, 2, 2), [plain("l", "permute", options={"dims": dims})]) for dims in ([1, 2, 3], [2, 1, 3])]
    assert len({model.content_hash for model in models}) == len(models)
    assert models[2]["l"].describe()["options"] == {"size": [1, 2]}


# --- structural ties --------------------------------------------------------------------------------------------------


def test_ties_are_told_through_joins_and_crops():
    """Winners of a max-pool behind Winograd's convolutions, a crop and a join: those of the direct order, on a flat image."""
    rng = np.random.default_rng(5)

    def wide(name, source):
        return Layer(
            name,
            "conv",
            activation="relu",
            window=Window((3, 3), padding="same"),
            arrays={"kernel": random_kernel(rng, 3, 3, 64, 64).astype(np.float32), "bias": rng.normal(size=64).astype(np.float32)},
            inputs=(source,),
        )

    model = build(
        (16, 16, 64),
        [
            wide("a", "input"),
            wide("b", "input"),
            plain("crop_a", "crop", pads=(1, 2, 3, 0), inputs=("a",)),
            plain("crop_b", "crop", pads=(1, 2, 3, 0), inputs=("b",)),
            plain("join", "concatenate", inputs=("crop_a", "crop_b"), options={"axis": 2}),
            pool("pool", "maxpool", Window((3, 3), (2, 2))),
            pool("top", "global_avgpool"),
        ],
    )
    x = np.full((1, 16, 16, 64), 0.25, np.float32)
    plans = {each: make_plan(model, "epsilon", algorithm=each) for each in ("auto", "direct")}
    traces = {each: lrp.run_forward(plan.steps, x) for each, plan in plans.items()}
    assert not np.array_equal(traces["auto"].activations[1], traces["direct"].activations[1])  # the algorithms do differ
    assert np.array_equal(traces["auto"].held[5], traces["direct"].held[5])
    assert list(layers.tie_labels(plans["auto"].steps, x)) == [5]
