"""Import Zennit beside a CPU build of PyTorch. Runs in the peers' interpreter.

Zennit imports torchvision, and PyPI's torchvision fails beside the CPU build ("operator torchvision::nms does not exist"): it registers
shape functions for operators that its own library would define. Those registrations are passed over.
"""

import torch


def allow_torchvision():
    """Let `import torchvision` pass over shape functions of operators that don't exist."""
    register = torch.library.register_fake

    def patient(name, *args, **kwargs):
        if isinstance(name, str) and name.startswith("torchvision::"):
            return lambda function: function
        return register(name, *args, **kwargs)

    torch.library.register_fake = patient


allow_torchvision()
