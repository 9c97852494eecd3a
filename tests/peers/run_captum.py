"""Write the relevances that Captum computes: python run_captum.py network.npz out.npz. Needs torch and captum, not nplrp."""

import sys
import warnings

import numpy as np
import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch_network import load, to_nhwc

warnings.simplefilter("ignore")

CASES = {
    "epsilon": EpsilonRule,
    "epsilon(epsilon=0.25)": lambda: EpsilonRule(0.25),
    "gamma": GammaRule,
    "gamma(gamma=1.0)": lambda: GammaRule(1.0),
    "gamma(bias=none)": lambda: GammaRule(set_bias_to_zero=True),
    "alpha1_beta0(bias=none)": lambda: Alpha1_Beta0_Rule(set_bias_to_zero=True),
    "alpha1_beta0": Alpha1_Beta0_Rule,
}


def main(source, target):
    """Run every case on every network; the rule in all layers with weights, pools by default."""
    found = {}
    for network, (make, x, targets) in load(source).items():
        for case, rule in CASES.items():
            model = make()
            for module in model.steps:
                if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                    module.rule = rule()
            relevance = LRP(model).attribute(x.clone().requires_grad_(), target=targets)
            found[f"{network}/{case}"] = to_nhwc(relevance)
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
