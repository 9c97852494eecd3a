"""Right code in other hands: how often golden checks raise a false alarm on it. Figures of docs/golden-diagnosis.md.

python -m tests.golden.clean_runs [--seeds N] [--networks NAME ...]

A run is a whole pass of a right implementation: of `tests.golden.port` (four orders of summation, float32 and float64), of
`tests.golden.mistaken_port` without a mistake (float32), and of nplrp itself (float32; direct, and with its faster algorithms; one thread
and all). Each is checked chained, local, and given golden numbers layer by layer. Exit code 1 if any check fails; minutes.
"""

import argparse
import sys
from collections import Counter

import numba
import numpy as np

from nplrp import golden
from nplrp.golden.candidate import Candidate
from nplrp.golden.isolated import isolated_run
from nplrp.golden.whole_run import whole_run
from nplrp.plan import make_plan
from tests import networks
from tests.golden import mistaken_port, port
from tests.golden.test_ports import runs_of, vgg_with_norms

NETWORKS = {
    "VGG": lambda seed: networks.small_vgg(seed, size=16),
    "VGG with batch norms": vgg_with_norms,
    "residual": lambda seed: networks.small_resnet(seed, size=16),
}
COMPOSITES = ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1", "epsilon_plus_flat", "epsilon", "notebook")
ORDERS = ("plain", "backward", "shuffled", "uneven")
MODES = ("chained", "local", "isolated")


def pictures(seed, shape):
    """Two images with flat areas, whose places tie."""
    x = networks.images(seed, 2, shape)
    x[1, 3:11, 4:12], x[0, :4] = 3.0, 0.5
    return x


def candidates(model, x, recorded, seed):
    """Yield (whose, precision, a run from end to end, and what the same gives on golden numbers or None)."""
    for dtype in ("float32", "float64"):
        for order in ORDERS:
            yield f"NumPy, {order}", dtype, *runs_of(port.port_of(recorded, model, dtype, order, seed), x, recorded)
    if recorded.facts["start"] == "logit":
        own = mistaken_port.Port(model, recorded.facts)
        activations = own.forward(recorded.input)
        yield "a second port", "float32", Candidate(own.backward(), activations), None
    facts = recorded.facts
    for threads in dict.fromkeys((1, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        for algorithm in ("direct", "auto"):
            plan = make_plan(model, facts["composite"], "float32", algorithm)
            ran = whole_run(plan, x, facts["start"], facts["targets"])
            alone = isolated_run(recorded, model, "float32") if algorithm == "direct" else None
            yield f"nplrp, {algorithm}", "float32", Candidate(ran.relevances, ran.activations), alone


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    options = parser.parse_args()
    runs, checks, alarms, suspects, worst = 0, Counter(), Counter(), Counter(), Counter()
    for network in options.networks:
        for seed in range(options.seeds):
            model = NETWORKS[network](seed)
            x = pictures(seed, model.input_shape)
            for composite in COMPOSITES:
                recorded = golden.record(model, x, composite, start=None if composite == "notebook" else "logit")
                for whose, dtype, whole, alone in candidates(model, x, recorded, seed):
                    runs += 1
                    for mode, candidate in zip(MODES, (whole, whole, alone), strict=True):
                        if candidate is None:
                            continue
                        report = golden.check(recorded, candidate, mode=mode, model=model)
                        checks[dtype, mode] += 1
                        suspects[dtype, mode] += any(row.verdict == "SUSPECT" for row in report.rows)
                        ratio = max((row.judgement.ratio for row in report.rows if row.verdict in ("EXACT", "WITHIN")), default=0.0)
                        worst[dtype, mode] = max(worst[dtype, mode], ratio)
                        if not report.passed:
                            alarms[dtype, mode] += 1
                            print(
                                "FALSE ALARM", network, seed, composite, whose, dtype, mode, report, sep="\n", file=sys.stderr, flush=True
                            )
                print(network, seed, composite, runs, dict(alarms), flush=True)
    print(f"\n{runs} runs, {sum(checks.values())} checks, {sum(alarms.values())} false alarms\n")
    print("| precision | mode | checks | false alarms | with SUSPECT | largest err/tol of what is WITHIN |\n|---|---|---|---|---|---|")
    for key in checks:
        print(f"| {' | '.join(key)} | {checks[key]} | {alarms[key]} | {suspects[key]} | {worst[key]:.2g} |")
    return 1 if alarms else 0


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
