"""Winograd's F(4x4, 3x3): the points, the matrices and the three transforms.

A tile of 4 x 4 outputs of a 3 x 3 convolution needs 6 x 6 inputs d and the 3 x 3 kernel g. Cook and Toom multiply
polynomials at points; Winograd transposes that into (Lavin and Gray 2015, eq. 8)

    Y = A^T [(G g G^T) * (B^T d B)] A

with 36 products where the definition needs 144. The points are 0, +-a, +-b and infinity with a = 1/sqrt(2), b = sqrt(2):
the powers of the textbook's 0, +-1, +-2 grow faster and cost two to three times the rounding error. With N(p) the product
of p - q over the other finite points q,

    A^T[k, p] = p^k            G[p, k] = p^k / N(p)            B^T[p] = coefficients of the product of (x - q), q != p

and at infinity A^T has a 1 in its last row, G picks g[2], and B^T has the product over all finite points. Since
a^2 b^2 = 1, N(0) = 1. The transforms below use that the rows of +-p share their even and odd parts.
"""

import math

import numpy as np
from llvmlite import ir

from nplrp.jit.lazy import intrinsic, types
from nplrp.kernels.epilogue import BIAS, RELU, Operands, by_mode
from nplrp.kernels.microkernel import BLOCK, SLAB
from nplrp.kernels.simd import Assembler, lanes_of

#: Outputs and inputs along one side of a tile, and products in a tile.
OUT, IN = 4, 6
POSITIONS = IN * IN

_A, _B = math.sqrt(0.5), math.sqrt(2.0)
_A2, _B2 = 0.5, 2.0
POINTS = (0.0, _A, -_A, _B, -_B)


def matrices():
    """Return A^T [4, 6], G [6, 3] and B^T [6, 6] in float64, straight from their definition."""
    at, g, bt = np.zeros((OUT, IN)), np.zeros((IN, 3)), np.zeros((IN, IN))
    for i, p in enumerate(POINTS):
        others = POINTS[:i] + POINTS[i + 1 :]
        at[:, i] = [p**k for k in range(OUT)]
        g[i] = [p**k / math.prod(p - q for q in others) for k in range(3)]
        bt[i, : IN - 1] = np.poly(others)[::-1]
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = np.poly(POINTS)[::-1]
    return at, g, bt


def _input_row(asm, d):
    """Return B^T d."""
    k = asm.constant
    even_a, odd_a = asm.fma(d[2], k(-_B2), d[4]), asm.mul(asm.fma(d[1], k(-_B2), d[3]), k(_A))
    even_b, odd_b = asm.fma(d[2], k(-_A2), d[4]), asm.mul(asm.fma(d[1], k(-_A2), d[3]), k(_B))
    zero = asm.add(d[0], asm.fma(d[2], k(-_A2 - _B2), d[4]))
    infinity = asm.add(d[1], asm.fma(d[3], k(-_A2 - _B2), d[5]))
    return [zero, asm.add(even_a, odd_a), asm.sub(even_a, odd_a), asm.add(even_b, odd_b), asm.sub(even_b, odd_b), infinity]


def _output_row(asm, m):
    """Return A^T m."""
    k = asm.constant
    sum_a, difference_a, sum_b, difference_b = asm.add(m[1], m[2]), asm.sub(m[1], m[2]), asm.add(m[3], m[4]), asm.sub(m[3], m[4])
    return [
        asm.add(m[0], asm.add(sum_a, sum_b)),
        asm.fma(difference_b, k(_B), asm.mul(difference_a, k(_A))),
        asm.fma(sum_b, k(_B2), asm.mul(sum_a, k(_A2))),
        asm.fma(difference_b, k(_B2 * _B), asm.fma(difference_a, k(_A2 * _A), m[5])),
    ]


def _kernel_row(asm, g):
    """Return G g."""
    k, n_a, n_b = asm.constant, 2 * _A2 * (_A2 - _B2), 2 * _B2 * (_B2 - _A2)
    even_a = asm.fma(g[2], k(_A2 / n_a), asm.mul(g[0], k(1 / n_a)))
    even_b = asm.fma(g[2], k(_B2 / n_b), asm.mul(g[0], k(1 / n_b)))
    plus_minus = [asm.fma(g[1], k(p / n), even) for even, p, n in ((even_a, _A, n_a), (even_b, _B, n_b)) for p in (p, -p)]
    return [g[0], *plus_minus, g[2]]


def _both_ways(row, asm, columns, load, store):
    """Compute M S M^T for the matrix M that `row` applies and a square S.

    Every number is loaded right before use and stored right after: 36 vectors don't fit into the registers.

    Parameters
    ----------
    columns : list of lists
        For every column of S the addresses of its numbers.
    load, store : callable
        From an address to a vector; of a vector to the next place, row by row.
    """
    columns = [row(asm, [load(address) for address in column]) for column in columns]
    for i in range(len(columns[0])):
        for value in row(asm, [column[i] for column in columns]):
            store(value)


@intrinsic
def transform_input(typing, x, x_from, row_step, column_step, v, v_from, v_step):
    """V = B^T d B of one vector of channels: d[i, j] at x[x_from + i * row_step + j * column_step], V[p] at v[v_from + p * v_step]."""
    whole = types.int64

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, x.dtype, lanes_of(x.dtype))
        _, x_from, row_step, column_step, _, v_from, v_step = args
        columns = [_walk(asm, top, row_step, IN) for top in _walk(asm, asm.array(0, x_from), column_step, IN)]
        places = iter(_walk(asm, asm.array(4, v_from), v_step, POSITIONS))
        _both_ways(_input_row, asm, columns, asm.load, lambda value: asm.store(value, next(places)))
        return context.get_dummy_value()

    return types.void(x, whole, whole, whole, v, whole, whole), emit


@intrinsic
def transform_output(typing, m, m_from, m_step, y, y_from):
    """Y = A^T M A of one vector of channels: M[p] at m[m_from + p * m_step], Y[i, j] at y[y_from + (4 i + j) * 32]."""
    whole = types.int64

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, m.dtype, lanes_of(m.dtype))
        _, m_from, m_step, _, y_from = args
        six_steps = builder.mul(m_step, ir.Constant(m_step.type, IN))
        columns = [_walk(asm, top, six_steps, IN) for top in _walk(asm, asm.array(0, m_from), m_step, IN)]
        places = iter(_walk(asm, asm.array(3, y_from), SLAB, OUT * OUT))
        _both_ways(_output_row, asm, columns, asm.load, lambda value: asm.store(value, next(places)))
        return context.get_dummy_value()

    return types.void(m, whole, whole, y, whole), emit


@intrinsic
def finish_output(typing, m, m_from, m_step, e, b_from, o_from, o_row, o_pixel):
    """Y = A^T M A as `transform_output`, finished (see `nplrp.kernels.epilogue`).

    Y[i, j] goes to out[o_from + i * o_row + j * o_pixel].
    """
    whole, dtype = types.int64, m.dtype
    signature = types.void(m, whole, whole, e, whole, whole, whole, whole)

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, dtype, lanes_of(dtype))
        m_step, b_from, (o_from, o_row, o_pixel) = args[2], args[4], args[5:]
        operands = Operands(context, builder, e, args[3], o_from)
        six_steps = builder.mul(m_step, ir.Constant(m_step.type, IN))
        columns = [_walk(asm, top, six_steps, IN) for top in _walk(asm, asm.array(0, args[1]), m_step, IN)]
        rows = _walk(asm, o_from, o_row, OUT, builder.add)
        pixels = [place for row in rows for place in _walk(asm, row, o_pixel, OUT, builder.add)]

        def one(mode, formula):
            places = iter(pixels)
            bias = asm.load(operands.array(asm, "bias", b_from)) if mode in (BIAS, RELU) else None

            def store(value):
                place = next(places)
                v = formula(
                    value,
                    lambda name: bias if name == "bias" else asm.load(operands.array(asm, name, place)),
                    lambda w: asm.store(w, operands.array(asm, "out2", place)),
                )
                asm.store(v, operands.array(asm, "out", place))

            _both_ways(_output_row, asm, columns, asm.load, store)

        by_mode(asm, operands, one)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def transform_kernel(typing, w, w_from, u, u_from, u_step, positive, negative):
    """U = G g G^T of one (float64) vector of kernels, in float64, then rounded to float32.

    Tap t of the kernels is at w[w_from + t * 512], U[p] at u[u_from + p * u_step]. The change (positive, negative) of
    `nplrp.kernels.packing` is made on the way.
    """
    whole = types.int64

    def emit(context, builder, signature, args):
        _, w_from, _, u_from, u_step, positive, negative = args
        lanes = lanes_of(types.float64)
        single = Assembler(context, builder, signature, args, types.float32, lanes)
        double = Assembler(context, builder, signature, args, types.float64, lanes)
        positive, negative = single.splat(positive), single.splat(negative)
        zero = single.constant(0.0)
        taps = _walk(single, single.array(0, w_from), BLOCK * SLAB, 9)
        places = iter(_walk(single, single.array(2, u_from), u_step, POSITIONS))

        def load(tap):
            g = single.load(tap)
            factor = builder.select(builder.fcmp_ordered(">", g, zero), positive, negative)
            return builder.fpext(builder.fmul(g, factor), double.vector)

        def store(value):
            single.store(builder.fptrunc(value, single.vector), next(places))

        _both_ways(_kernel_row, double, [taps[j::3] for j in range(3)], load, store)
        return context.get_dummy_value()

    return types.void(w, whole, u, whole, whole, types.float32, types.float32), emit


#: Side of the squares that are transposed.
SIDE = 8


@intrinsic
def transpose_square(typing, x, x_from, x_step, y, y_from, y_step):
    """Write y[y_from + j * y_step + i] = x[x_from + i * x_step + j] for i, j < 8."""
    whole = types.int64

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, x.dtype, SIDE)
        _, x_from, x_step, _, y_from, y_step = args
        first, to = asm.array(0, x_from), asm.array(3, y_from)
        rows = [asm.load(address) for address in _walk(asm, first, x_step, SIDE)]
        for d in (4, 2, 1):  # swap the off-diagonal quarters of ever smaller squares
            for i in (i for i in range(SIDE) if not i & d):
                pick = [[n if not n & d else SIDE + n - d for n in range(SIDE)], [n + d if not n & d else SIDE + n for n in range(SIDE)]]
                rows[i], rows[i + d] = (asm.shuffle(rows[i], rows[i + d], lanes) for lanes in pick)
        for row, address in zip(rows, _walk(asm, to, y_step, SIDE), strict=True):
            asm.store(row, address)
        return context.get_dummy_value()

    return types.void(x, whole, whole, y, whole, whole), emit


def _walk(asm, address, step, count, move=None):
    """Return `count` addresses (or, with `move`, offsets), each `step` elements after the one before."""
    addresses = [address]
    while len(addresses) < count:
        addresses.append((move or asm.step)(addresses[-1], step))
    return addresses
