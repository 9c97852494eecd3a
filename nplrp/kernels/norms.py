"""Normalisation by what numbers themselves say: means and deviations of groups, and the linear map that is left once these are held.

An array x [n, p, q] has its groups side by side in the last axis: group g of an image is its columns g * k to (g + 1) * k, all p rows of
them. `weights` and `bias`, [p or 1, q], have a number for each place, or one row for all.

Everything between reading x and writing a result is float64. Sums go row by row; within a row number i goes to lane i % `LANES`; then the
lanes are added in order.
"""

import math

import numpy as np

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.kernels.elementwise import SMALL

LANES = 16
# What a group is divided by.
DEVIATION = 0  #: the square root of (mean of (x - mean)^2, plus epsilon)
ROOT = 1  #: the square root of (mean of x^2, plus epsilon)
LENGTH = 2  #: the square root of the sum of x^2, at least epsilon
# What is added up.
_PLAIN, _SQUARE, _WEIGHTED = range(3)


@queueable
def measure(x, k, kind, epsilon, held, nt=1):
    """Write to held [n, groups], float64, 1 over what each group is divided by; NaN where that isn't finite."""
    _measure(_few(nt, x), frozen(x), *x.shape, k, kind, float(epsilon), held.reshape(-1))


@queueable
def normalise(x, k, weights, bias, held, centred, z, nt=1):
    """Write (x - mean) * held * weights + bias to z, without the mean if not `centred`."""
    arguments = frozen(weights), frozen(bias), len(weights) > 1, frozen(held), bool(centred), z.reshape(-1)
    _normalise(_few(nt, x), frozen(x), *x.shape, k, *arguments)


@queueable
def normalise_transpose(s, k, weights, held, centred, c, nt=1):
    """Write the transpose of `normalise` to c: t = s * weights * held, minus the mean of t if `centred`."""
    _transpose(_few(nt, s), frozen(s), *s.shape, k, frozen(weights), len(weights) > 1, frozen(held), bool(centred), c.reshape(-1))


@queueable
def normalise_tangent(x, v, k, kind, epsilon, weights, held, centred, turned, out, nt=1):
    """Write the derivative of `normalise` at x, times v, to out; its transpose times v if `turned`.

    With y = `normalise`'s (x - mean) * held, h the derivative of the deviation ((x - mean) * held for `DEVIATION`, else x * held) and m the
    count of a group, it is weights * held * (v - mean(v) - y * sum(h v) / m); m is 1 for `LENGTH`, and h 0 where that isn't over epsilon.
    """
    arguments = frozen(weights), len(weights) > 1, frozen(held), bool(centred), bool(turned), out.reshape(-1)
    _tangent(_few(nt, x), frozen(x), frozen(v), *x.shape, k, kind, float(epsilon), *arguments)


def _few(nt, x):
    return nt if x.size > SMALL else 1


@kernel
def _total(x, start, p, q, k, kind, mean, weights, column, step, lanes):
    """Return the sum over p rows of k numbers: x, (x - mean)^2, or x times weights."""
    for i in range(LANES):
        lanes[i] = 0
    for row in range(p):
        numbers, factors = x[start + row * q : start + row * q + k], weights[row * step + column : row * step + column + k]
        for begin in range(0, k, LANES):
            part = numbers[begin : min(begin + LANES, k)]
            if kind == _PLAIN:
                for i in range(part.size):
                    lanes[i] += np.float64(part[i])
            elif kind == _SQUARE:
                for i in range(part.size):
                    v = np.float64(part[i]) - mean
                    lanes[i] += v * v
            else:
                those = factors[begin : min(begin + LANES, k)]
                for i in range(part.size):
                    lanes[i] += np.float64(part[i]) * np.float64(those[i])
    total = lanes[0]
    for i in range(1, LANES):
        total += lanes[i]
    return total


@shared_kernel
def _measure(t, nt, x, n, p, q, k, kind, epsilon, held):
    groups, lanes = q // k, np.empty(LANES)
    count = p * k
    for task in range(n * groups * t // nt, n * groups * (t + 1) // nt):
        start = task // groups * p * q + task % groups * k
        mean = 0.0
        if kind == DEVIATION:
            mean = _total(x, start, p, q, k, _PLAIN, 0.0, x, 0, 0, lanes) / count
        total = _total(x, start, p, q, k, _SQUARE, mean, x, 0, 0, lanes)
        size = max(math.sqrt(total), epsilon) if kind == LENGTH else math.sqrt(total / count + epsilon)
        held[task] = 1.0 / size if total < np.inf else np.nan


@shared_kernel
def _normalise(t, nt, x, n, p, q, k, weights, bias, rows, held, centred, z):
    groups, lanes, step = q // k, np.empty(LANES), q if rows else 0
    for task in range(n * groups * t // nt, n * groups * (t + 1) // nt):
        column = task % groups * k
        start = task // groups * p * q + column
        mean, factor = 0.0, held[task]
        if centred:
            mean = _total(x, start, p, q, k, _PLAIN, 0.0, x, 0, 0, lanes) / (p * k)
        for row in range(p):
            first, at = start + row * q, row * step + column
            numbers, factors, shifts, to = x[first : first + k], weights[at : at + k], bias[at : at + k], z[first : first + k]
            for i in range(k):
                to[i] = (np.float64(numbers[i]) - mean) * factor * np.float64(factors[i]) + np.float64(shifts[i])


@shared_kernel
def _transpose(t, nt, s, n, p, q, k, weights, rows, held, centred, c):
    groups, lanes, step = q // k, np.empty(LANES), q if rows else 0
    for task in range(n * groups * t // nt, n * groups * (t + 1) // nt):
        column = task % groups * k
        start = task // groups * p * q + column
        mean, factor = 0.0, held[task]
        if centred:
            mean = _total(s, start, p, q, k, _WEIGHTED, 0.0, weights, column, step, lanes) / (p * k)
        for row in range(p):
            first, at = start + row * q, row * step + column
            numbers, factors, to = s[first : first + k], weights[at : at + k], c[first : first + k]
            for i in range(k):
                to[i] = (np.float64(numbers[i]) * np.float64(factors[i]) - mean) * factor


@shared_kernel
def _tangent(t, nt, x, v, n, p, q, k, kind, epsilon, weights, rows, held, centred, turned, out):
    groups, lanes, step = q // k, np.empty(LANES), q if rows else 0
    numbers, along, towards = np.empty(p * k), np.empty(p * k), np.empty(p * k)
    for task in range(n * groups * t // nt, n * groups * (t + 1) // nt):
        column = task % groups * k
        start = task // groups * p * q + column
        mean, factor = 0.0, held[task]
        if kind == DEVIATION:
            mean = _total(x, start, p, q, k, _PLAIN, 0.0, x, 0, 0, lanes) / (p * k)
        own = mean if centred else 0.0
        for row in range(p):
            first, at = start + row * q, row * step + column
            for i in range(k):
                weight = np.float64(weights[at + i]) if turned else 1.0
                value, direction = (np.float64(x[first + i]) - own) * factor, (np.float64(x[first + i]) - mean) * factor
                numbers[row * k + i], towards[row * k + i] = (direction, value) if turned else (value, direction)
                along[row * k + i] = np.float64(v[first + i]) * weight
        middle = 0.0
        if centred:
            middle = _total(along, 0, p, k, k, _PLAIN, 0.0, along, 0, 0, lanes) / (p * k)
        share = _total(along, 0, p, k, k, _WEIGHTED, 0.0, towards, 0, k, lanes)
        if kind != LENGTH:
            share /= p * k
        elif factor * epsilon >= 1.0:
            share = 0.0
        for row in range(p):
            first, at = start + row * q, row * step + column
            for i in range(k):
                weight = 1.0 if turned else np.float64(weights[at + i])
                out[first + i] = (along[row * k + i] - middle - numbers[row * k + i] * share) * factor * weight
