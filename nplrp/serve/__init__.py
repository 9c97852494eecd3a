"""`nplrp serve`: predictions and explanations over HTTP (extra `serve`).

A request passes `front` (request id, log, metrics, errors), `app` (routes), `bodies` and `wanted` (from bytes to tensors and checked
parameters), waits for the `lane` (the one thread that computes, behind a bounded queue), where `engine` calls the library, and leaves
as `answers` writes it. `protocol`, `server` and `workers` lie around it: connections, signals, processes.
"""
