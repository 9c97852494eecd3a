"""Print the polynomials of nplrp/kernels/elementary.py, from the highest power down. Needs mpmath, not nplrp."""

from mpmath import cos, erf, erfc, exp, expm1, log1p, matrix, mp, mpf, pi, sqrt, tanh

mp.dps = 60
TINY = mpf(10) ** -12


def exponential(r):
    """Return (exp(r) - 1 - r) / r^2."""
    return mpf(1) / 2 + r / 6 if abs(r) < TINY else (expm1(r) - r) / r**2


def logarithm(z):
    """Return (log(1 + f) / s - 2) / z with s = sqrt(z) = f / (2 + f)."""
    s = sqrt(z)
    return mpf(2) / 3 + 2 * z / 5 if z < TINY else (log1p(2 * s / (1 - s)) / s - 2) / z


def shrink(z):
    """Return (x - tanh(x)) / x^3 with x = sqrt(z)."""
    x = sqrt(z)
    return mpf(1) / 3 - 2 * z / 15 if z < TINY else (x - tanh(x)) / x**3


def error_function(z):
    """Return erf(x) / x with x = sqrt(z)."""
    return 2 / sqrt(pi) * (1 - z / 3) if z < TINY else erf(sqrt(z)) / sqrt(z)


def normal_middle(y):
    """Return P(0 < X < x) / x of a standard normal X, with x = sqrt(2 y)."""
    return (1 - y / 3) / sqrt(2 * pi) if y < TINY else erf(sqrt(y)) / sqrt(8 * y)


def normal_tail(a):
    """Return exp(a^2 / 2) P(X > a) of a standard normal X."""
    return exp(a * a / 2) * erfc(a / sqrt(mpf(2))) / 2


HALF, THIRD = mpf(1) / 2, mpf("0.3466")
#: (name, function, interval, number of coefficients in float32, in float64)
POLYNOMIALS = (
    ("EXP", exponential, (-THIRD, THIRD), 5, 10),
    ("LOG", logarithm, (mpf(0), mpf("0.0401")), 3, 8),
    ("SHRINK", shrink, (mpf(0), mpf(1)), 8, 16),
    ("MIDDLE", normal_middle, (mpf(0), HALF), 6, 11),
    ("ERF", error_function, (mpf(0), mpf(1)), 7, 13),
)
#: (bits, end of the interval, degree of P, where the middle of the nodes is)
TAILS = ((32, 15, 4, 3), (64, 39, 9, 5))


def nodes(low, high, count):
    """Return Chebyshev's nodes of an interval."""
    return [(low + high + (high - low) * cos(pi * (2 * j + 1) / (2 * count))) / 2 for j in range(count)]


def polynomial(function, interval, count):
    """Return the coefficients of the polynomial that equals a function at the nodes, and its largest relative error."""
    at = nodes(*interval, count)
    powers = matrix([[x ** (count - 1 - k) for k in range(count)] for x in at])
    found = list(mp.lu_solve(powers, matrix([function(x) for x in at])))
    return found, max(abs(mp.polyval(found, x) / function(x) - 1) for x in mp.linspace(*interval, 500))


def tail(end, degree, middle):
    """Return the coefficients of P and N with P(a) / (a P(a) + N(a)) = sqrt(2 pi) normal_tail(a) at nodes in [1, end], and the error."""
    c = 1 / sqrt(2 * pi)

    def back(u):
        return 1 + (middle - 1) * u / (1 - u)

    last = mpf(end - 1) / (end + middle - 2)
    at = [(x, normal_tail(x)) for x in map(back, nodes(mpf(0), last, 2 * degree))]
    rows = [[x**k * (c - y * x) for k in range(degree, 0, -1)] + [-y * x**k for k in range(degree - 1, -1, -1)] for x, y in at]
    found = list(mp.lu_solve(matrix(rows), matrix([y * x - c for x, y in at])))
    p, n = [*found[:degree], mpf(1)], found[degree:]

    def value(x):
        return c * mp.polyval(p, x) / (x * mp.polyval(p, x) + mp.polyval(n, x))

    return p, n, max(abs(value(x) / normal_tail(x) - 1) for x in map(back, mp.linspace(0, last, 500)))


def show(name, coefficients, error):
    """Print a table."""
    print(f"_{name} = ({', '.join(repr(float(c)) for c in coefficients)})  # {mp.nstr(error, 2)}")


if __name__ == "__main__":
    for name, function, interval, *counts in POLYNOMIALS:
        for bits, count in zip((32, 64), counts, strict=True):
            show(f"{name}_{bits}", *polynomial(function, interval, count))
    for bits, *rest in TAILS:
        p, n, error = tail(*rest)
        show(f"TAIL_P_{bits}", p, error)
        show(f"TAIL_N_{bits}", n, error)
