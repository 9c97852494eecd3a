"""Runs Captum for the coordinator: one rule on every layer with weights."""

import sys

import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from folder_torch import draw, folder_job
from protocol import Jobs, images, read_network, serve
from torch import nn
from torch_vgg import array, build, tensor

RULES = {"epsilon": EpsilonRule, "zplus": Alpha1_Beta0_Rule}


def main(network):
    """Serve jobs."""
    model = build(read_network(network))
    linear = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]

    def explain(rule, batch):
        x = tensor(images(batch))
        with torch.inference_mode():
            target = model(x).argmax(1).tolist()

        def run():
            for module in linear:
                module.rule = RULES[rule]()  # forgotten after every call
            return array(LRP(model).attribute(x.requires_grad_(), target=target))

        return run

    def folder(folder):
        def explain(x):
            with torch.inference_mode():
                target = model(x).argmax(1).tolist()
            for module in linear:
                module.rule = EpsilonRule()
            return LRP(model).attribute(x.requires_grad_(), target=target)

        return folder_job(folder, 224, explain, draw)

    jobs = Jobs({"explain": explain, "folder": folder}, torch.set_num_threads)
    from importlib import metadata

    facts = {"torch": torch.__version__, "captum": metadata.version("captum")}
    serve({"facts": lambda: facts, **jobs.commands()})


if __name__ == "__main__":
    main(sys.argv[1])
