"""Write the networks of `graph_file`: python graph_networks.py graphs_networks.npz. Small, seeded, living statistics and biases."""

import sys

import numpy as np
from graph_file import Network, write
from graph_forward import forward


class Builder:
    """Appends layers, each with weights of its own; every method returns the layer's name."""

    def __init__(self, seed, shape):
        self.rng, self.layers, self.channels = np.random.default_rng(seed), [], {"x": shape[-1]}
        self.layers.append({"name": "x", "kind": "input", "inputs": [], "shape": list(shape)})

    def add(self, kind, inputs, channels, name=None, arrays=None, **attributes):
        """Append a layer of any kind."""
        name = name or f"{kind}{len(self.layers)}"
        self.layers.append({"name": name, "kind": kind, "inputs": inputs, **attributes, "arrays": arrays or {}})
        self.channels[name] = channels
        return name

    def kernel(self, *shape, fan):
        """He-scaled weights."""
        return self.rng.normal(size=shape) * np.sqrt(2 / fan)

    def weighted(self, kind, x, kernel, out, bias, activation, name=None, **attributes):
        """Append a layer with kernel and bias."""
        arrays = {"kernel": kernel} | ({"bias": self.rng.normal(0.05, 0.15, out)} if bias else {})
        return self.add(kind, [x], out, name, arrays, activation=activation, **attributes)

    def conv(self, x, out, size=3, activation="relu", stride=1, padding="same", groups=1, bias=True):
        """Append a convolution."""
        size, c = (size if isinstance(size, tuple) else (size, size)), self.channels[x] // groups
        kernel = self.kernel(*size, c, out, fan=size[0] * size[1] * c)
        window = {"size": list(size), "stride": [stride] * 2, "padding": padding, "groups": groups}
        return self.weighted("conv", x, kernel, out, bias, activation, **window)

    def depthwise(self, x, size=3, activation="linear", stride=1, bias=True):
        """Append a depthwise convolution."""
        c = self.channels[x]
        kernel = self.kernel(size, size, c, 1, fan=size * size)
        return self.weighted("depthwise", x, kernel, c, bias, activation, size=[size] * 2, stride=[stride] * 2, padding="same")

    def conv_transpose(self, x, out, size, stride, activation="relu"):
        """Append a transposed convolution."""
        kernel = self.kernel(size, size, out, self.channels[x], fan=size * size * self.channels[x] / stride**2)
        return self.weighted("conv_transpose", x, kernel, out, True, activation, size=[size] * 2, stride=[stride] * 2, padding="same")

    def dense(self, x, out, activation="linear", inputs=None):
        """Append a dense layer; `inputs` is given after a Flatten."""
        inputs = inputs or self.channels[x]
        return self.weighted("dense", x, self.kernel(inputs, out, fan=inputs), out, True, activation)

    def norm(self, x, epsilon=1e-3):
        """Append a batch norm with living statistics and gammas of both signs."""
        c, rng = self.channels[x], self.rng
        arrays = {
            "gamma": rng.uniform(0.6, 1.4, c) * np.where(np.arange(c) % 4 == 3, -1, 1),
            "beta": rng.normal(0.1, 0.3, c),
            "mean": rng.normal(0, 0.4, c),
            "variance": rng.uniform(0.4, 1.8, c),
        }
        return self.add("batchnorm", [x], c, arrays=arrays, epsilon=epsilon)

    def layer_norm(self, x, epsilon=1e-3):
        """Append a layer norm over the last axis."""
        c = self.channels[x]
        arrays = {"gamma": self.rng.uniform(0.6, 1.4, c), "beta": self.rng.normal(0.1, 0.3, c)}
        return self.add("layernorm", [x], c, arrays=arrays, epsilon=epsilon)

    def act(self, x, function="relu", **attributes):
        """Append an activation."""
        return self.add("activation", [x], self.channels[x], function=function, **attributes)

    def pool(self, x, kind="maxpool", size=2, stride=None, padding="valid"):
        """Append a pool."""
        return self.add(kind, [x], self.channels[x], size=[size] * 2, stride=[stride or size] * 2, padding=padding)

    def same(self, kind, x, **attributes):
        """Append a layer that keeps the number of channels: global pools, upsampling."""
        return self.add(kind, [x], self.channels[x], **attributes)

    def join(self, kind, *inputs):
        """Append a layer that reads several."""
        return self.add(kind, list(inputs), sum(self.channels[x] for x in inputs) if kind == "concatenate" else self.channels[inputs[0]])

    def head(self, x, classes=5):
        """Append a global average pool and the logits."""
        return self.dense(self.same("global_avgpool", x), classes)

    def flat_head(self, x, side, classes=5):
        """Append Flatten and the logits."""
        size = side * side * self.channels[x]
        return self.dense(self.add("flatten", [x], size), classes)


def a_residual(n):
    """Convolutions around an Add, a ReLU and a max-pool above it."""
    stem = n.conv("x", 4)
    body = n.conv(n.conv(stem, 4), 4, activation="linear")
    n.flat_head(n.pool(n.act(n.join("add", stem, body))), 6)


def b_projection(n):
    """ResNet50's blocks: a projection shortcut with stride 2, then an identity shortcut; batch norms throughout."""
    conv = {"activation": "linear"}
    stem = n.act(n.norm(n.conv("x", 4, **conv)))
    body = n.act(n.norm(n.conv(stem, 6, 1, stride=2, **conv)))
    body = n.norm(n.conv(n.act(n.norm(n.conv(body, 6, **conv))), 6, 1, **conv))
    stem = n.act(n.join("add", n.norm(n.conv(stem, 6, 1, stride=2, **conv)), body))
    body = n.norm(n.conv(n.act(n.norm(n.conv(stem, 6, **conv))), 6, **conv))
    n.head(n.act(n.join("add", body, stem)))


def c_inception(n):
    """Four branches, two of them with pools of stride 1, joined by Concatenate."""
    stem = n.conv("x", 4)
    branches = [
        n.conv(stem, 3, 1),
        n.conv(n.conv(n.conv(stem, 2, 1), 3, (1, 3)), 3, (3, 1)),
        n.conv(n.pool(stem, "avgpool", 3, 1, "same"), 2, 1),
        n.pool(stem, "maxpool", 3, 1, "same"),
    ]
    n.flat_head(n.pool(n.conv(n.join("concatenate", *branches), 4, padding="valid"), "maxpool", 3, 2), 4)


def d_densenet(n):
    """Batch norm, ReLU and convolution on Concatenates, a transition with an average pool."""

    def grow(x, width):
        x = n.conv(n.act(n.norm(x)), 4, 1, "linear", bias=False)
        return n.conv(n.act(n.norm(x)), width, 3, "linear", bias=False)

    x = n.conv("x", 4, activation="linear", bias=False)
    for _ in range(2):
        x = n.join("concatenate", x, grow(x, 3))
    x = n.pool(n.conv(n.act(n.norm(x)), 5, 1, "linear", bias=False), "avgpool")
    x = n.join("concatenate", x, grow(x, 3))
    n.head(n.act(n.norm(x)))


def e_mobilenet(n):
    """Depthwise convolutions of stride 1 and 2, batch norm, ReLU6 with saturated units, an inverted residual."""

    def block(x):
        return n.act(n.norm(x), "relu6")

    x = block(n.conv("x", 4, activation="linear", bias=False, stride=2))
    x = block(n.conv(block(n.depthwise(x, bias=False)), 6, 1, "linear", bias=False))
    x = block(n.conv(block(n.depthwise(x, stride=2, bias=False)), 6, 1, "linear", bias=False))
    y = block(n.depthwise(block(n.conv(x, 8, 1, "linear", bias=False)), bias=False))
    n.head(n.join("add", x, n.norm(n.conv(y, 6, 1, "linear", bias=False))))


def f_twopools(n):
    """Global average and global max-pool, concatenated."""
    x = n.conv(n.pool(n.conv("x", 4)), 5)
    n.dense(n.join("concatenate", n.same("global_avgpool", x), n.same("global_maxpool", x)), 5)


def joined(kind, branches):
    """A join of several convolutions, the last of them linear, below a convolution."""

    def build(n):
        stem = n.conv("x", 4)
        ends = [n.conv(stem, 4, 3 if i % 2 else 1, "linear" if i == branches - 1 else "relu") for i in range(branches)]
        n.flat_head(n.pool(n.conv(n.join(kind, *ends), 4)), 6)

    return build


def g_maximum(n):
    """Maximum, then Minimum, of ReLUs: with ties where both are zero."""
    stem = n.conv("x", 4)
    x = n.conv(n.join("maximum", n.conv(stem, 4), n.conv(stem, 4, 1)), 4)
    n.flat_head(n.pool(n.join("minimum", x, n.conv(x, 4))), 6)


def h_squeeze(n):
    """Squeeze and excite: a gate per channel."""
    x = n.conv("x", 4)
    gate = n.dense(n.dense(n.same("global_avgpool", x), 3, "relu"), 4, "sigmoid")
    gate = n.add("reshape", [gate], 4, shape=[1, 1, 4])
    n.head(n.conv(n.join("multiply", x, gate), 5))


def i_inputs(n):
    """Three convolutions and an Add read the input."""
    first, second = n.conv("x", 3), n.conv("x", 3, 1)
    third = n.join("add", "x", n.conv("x", 3, activation="linear"))
    n.flat_head(n.pool(n.conv(n.join("concatenate", first, second, third), 4)), 6)


def j_nested(n):
    """A residual in a residual, max-pools above both joins."""
    stem = n.conv("x", 4)
    inner = n.act(n.join("add", stem, n.conv(stem, 4, activation="linear")))
    inner = n.conv(n.pool(inner, "maxpool", 3, 1, "same"), 4, activation="linear")
    n.flat_head(n.pool(n.conv(n.pool(n.act(n.join("add", inner, stem))), 4)), 3)


def k_grouped(n):
    """ResNeXt's block: a grouped convolution in a residual."""
    stem = n.conv("x", 4)
    body = n.conv(n.conv(n.conv(stem, 4, 1), 6, groups=2), 4, 1, "linear")
    n.flat_head(n.pool(n.act(n.join("add", stem, body))), 6)


def l_activations(n):
    """One branch for each activation."""
    stem = n.conv("x", 4)
    branches = [
        n.act(n.conv(stem, 2, activation="linear"), "leaky_relu", slope=0.25),
        n.act(n.conv(stem, 2, activation="linear"), "elu"),
        *(n.act(n.conv(stem, 2, activation="linear"), function) for function in ("sigmoid", "tanh", "silu", "gelu")),
    ]
    n.head(n.conv(n.join("concatenate", *branches), 4, activation="silu"))


def m_unet(n):
    """Down and up again: UpSampling and Conv2DTranspose, Concatenate with what was before."""
    top = n.conv("x", 3)
    middle = n.conv(n.pool(top), 4)
    bottom = n.conv(n.pool(middle), 4)
    middle = n.conv(n.join("concatenate", n.same("upsample", bottom, factor=2), middle), 4)
    n.head(n.conv(n.join("concatenate", n.conv_transpose(middle, 3, 4, 2), top), 4))


def n_layernorm(n):
    """ConvNeXt's block: layer norms over the channels, a depthwise convolution, gelu, a residual."""
    x = n.layer_norm(n.conv("x", 6, 4, "linear", stride=4, padding="valid"))
    y = n.act(n.conv(n.layer_norm(n.depthwise(x)), 8, 1, "linear"), "gelu")
    x = n.join("add", x, n.conv(y, 6, 1, "linear"))
    n.dense(n.layer_norm(n.same("global_avgpool", x)), 5)


def o_dense(n):
    """A residual of dense layers on vectors, with a batch norm."""
    stem = n.dense("x", 8, "relu")
    body = n.norm(n.dense(n.dense(stem, 8, "relu"), 8))
    n.dense(n.act(n.join("add", stem, body)), 5)


def p_twice(n):
    """Layers that read one output twice."""
    x = n.conv("x", 4)
    x = n.conv(n.join("add", x, x), 3)
    n.head(n.conv(n.join("concatenate", x, x), 4))


def q_dead(n):
    """A channel that is 0 everywhere below a max-pool and global pools: ties, and units without any contribution."""
    x = n.pool(n.conv("x", 4))
    x = n.conv(x, 5)
    n.layers[-1]["arrays"]["bias"][0] = -50
    y = n.pool(x, "maxpool", 3, 1, "same")
    n.dense(n.join("concatenate", n.same("global_maxpool", y), n.same("global_maxpool", x), n.same("global_avgpool", x)), 5)


BUILD = {  # shape; how
    "a_residual": ((12, 12, 3), a_residual),
    "b_projection": ((13, 13, 3), b_projection),
    "c_inception": ((12, 12, 3), c_inception),
    "d_densenet": ((12, 12, 3), d_densenet),
    "e_mobilenet": ((13, 13, 3), e_mobilenet),
    "f_twopools": ((12, 12, 3), f_twopools),
    "g_add3": ((12, 12, 3), joined("add", 3)),
    "g_average": ((12, 12, 3), joined("average", 2)),
    "g_subtract": ((12, 12, 3), joined("subtract", 2)),
    "g_maximum": ((12, 12, 3), g_maximum),
    "h_squeeze": ((12, 12, 3), h_squeeze),
    "i_inputs": ((12, 12, 3), i_inputs),
    "j_nested": ((12, 12, 3), j_nested),
    "k_grouped": ((12, 12, 3), k_grouped),
    "l_activations": ((12, 12, 3), l_activations),
    "m_unet": ((12, 12, 3), m_unet),
    "n_layernorm": ((12, 12, 3), n_layernorm),
    "o_dense": ((12,), o_dense),
    "p_twice": ((12, 12, 3), p_twice),
    "q_dead": ((12, 12, 3), q_dead),
}
SEEDS = dict.fromkeys(BUILD, 1) | {"c_inception": 2, "f_twopools": 2}


def pictures(rng, shape):
    """Two smooth pictures of both signs, or two vectors."""
    if len(shape) == 1:
        return rng.normal(0, 1.2, (2, *shape))
    h, w, c = shape
    y, x = np.mgrid[:h, :w] / h
    waves = [np.sin(2 * np.pi * (f * x + g * y) + p) for f, g, p in rng.uniform(-2, 2, size=(2 * c, 3))]
    return np.stack(waves, axis=-1).reshape(h, w, 2, c).transpose(2, 0, 1, 3) * 1.3 + rng.normal(0, 0.3, size=(2, h, w, c))


def main(path):
    """Build every network; the targets are the largest logit of the first input and the second largest of the other."""
    networks = []
    for name, (shape, build) in BUILD.items():
        builder = Builder([SEEDS[name], *name.encode()], shape)
        build(builder)
        x = pictures(builder.rng, shape)
        for layer in builder.layers:
            layer["arrays"] = {key: a.astype(np.float32).astype(np.float64) for key, a in layer.get("arrays", {}).items()}
        network = Network(name, builder.layers, x, None)
        logits = forward(network)[network.layers[-1]["name"]]
        order = np.argsort(logits, axis=1)
        network.targets = np.array([order[0, -1], order[1, -2]])
        print(name, sum(a.size for one in network.layers for a in one["arrays"].values()), logits[[0, 1], network.targets])
        networks.append(network)
    write(path, networks)


if __name__ == "__main__":
    main(*sys.argv[1:])
