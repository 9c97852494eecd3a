"""Turn weights from Keras, ONNX and PyTorch into the one HDF5 layout of docs/weights-format.md.

Joined to `nplrp` by that file format only: this package imports nplrp's description of a model, nplrp never imports this one.
Run it as ``python -m weights_tools from-keras|from-onnx|from-pytorch IN OUT.h5``.
"""
