"""Write the relevances that Zennit computes: python run_zennit.py network.npz out.npz. Needs torch and zennit, not nplrp."""

import sys

import numpy as np
import torch

_register = torch.library.register_fake


def _skip_torchvision(op, *args, **kwargs):
    """Let a torchvision of another build be imported: Zennit imports it and uses nothing of its operators."""
    if isinstance(op, str) and op.startswith("torchvision::"):
        return lambda function: function
    return _register(op, *args, **kwargs)


torch.library.register_fake = _skip_torchvision

import zennit.composites as zc  # noqa: E402
import zennit.rules as zr  # noqa: E402
from torch_network import load, to_nhwc  # noqa: E402
from zennit.attribution import Gradient  # noqa: E402
from zennit.types import Activation, AvgPool, Linear  # noqa: E402

LOW, HIGH = -3.0, 3.0


def everywhere(rule):
    """One rule in all layers with weights, on Zennit's own base map."""
    return zc.LayerMapComposite([(Activation, zr.Pass()), (AvgPool, zr.Norm()), (Linear, rule)])


CASES = {
    "epsilon": lambda: everywhere(zr.Epsilon()),
    "epsilon(epsilon=0.25)": lambda: everywhere(zr.Epsilon(0.25)),
    "epsilon(bias=none)": lambda: everywhere(zr.Epsilon(zero_params="bias")),
    "gamma": lambda: everywhere(zr.Gamma()),
    "gamma(gamma=1.0)": lambda: everywhere(zr.Gamma(1.0)),
    "gamma(bias=none)": lambda: everywhere(zr.Gamma(zero_params="bias")),
    "zplus": lambda: everywhere(zr.ZPlus()),
    "zplus(bias=none)": lambda: everywhere(zr.ZPlus(zero_params="bias")),
    "alpha_beta": lambda: everywhere(zr.AlphaBeta()),
    "alpha1_beta0": lambda: everywhere(zr.AlphaBeta(1.0, 0.0)),
    "alpha_beta(alpha=3.0)": lambda: everywhere(zr.AlphaBeta(3.0, 2.0)),
    "alpha_beta(bias=none)": lambda: everywhere(zr.AlphaBeta(zero_params="bias")),
    "wsquare": lambda: everywhere(zr.WSquare()),
    "wsquare(bias=none)": lambda: everywhere(zr.WSquare(zero_params="bias")),
    "flat": lambda: everywhere(zr.Flat()),
    "zbox(low=-3.0, high=3.0)": lambda: everywhere(zr.ZBox(LOW, HIGH)),
    "epsilon_gamma_box(low=-3.0, high=3.0)": lambda: zc.EpsilonGammaBox(LOW, HIGH),
    "epsilon_plus": zc.EpsilonPlus,
    "epsilon_plus_flat": zc.EpsilonPlusFlat,
    "epsilon_alpha2_beta1": zc.EpsilonAlpha2Beta1,
    "epsilon_alpha2_beta1_flat": zc.EpsilonAlpha2Beta1Flat,
    "excitation_backprop": zc.ExcitationBackprop,
    "guided_backprop": zc.GuidedBackprop,
    "deconvnet": zc.DeconvNet,
    "gradient": lambda: None,
}


def main(source, target):
    """Run every case on every network."""
    found = {}
    for network, (make, x, targets) in load(source).items():
        start = torch.nn.functional.one_hot(targets, make()(x).shape[1]).double()
        for case, composite in CASES.items():
            with Gradient(model=make(), composite=composite()) as attributor:
                _, relevance = attributor(x.clone(), start)
            found[f"{network}/{case}"] = to_nhwc(relevance)
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
