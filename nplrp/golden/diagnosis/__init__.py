"""Why a layer diverges: three layers of search, cheapest first, each answer with what it leaves in tolerances.

reported    what was reported: is the array a simple function of the right one, or another array (`relations`)?
rules       rules with something changed, and numbers that are fitted rather than listed: epsilon, gamma, alpha and beta, a box, a bias
single      a single weight or bias, by its index and its value

A hypothesis is tried on a small piece of a layer (`cutting`), and run on all of it if it fits there. Nothing is named that doesn't fit;
what can't be told apart is named together (`matching`).
"""

from nplrp.golden.diagnosis.diagnosing import diagnose, find
from nplrp.golden.diagnosis.matching import Finding, Match
from nplrp.golden.diagnosis.replay import plan_of, trace_of

__all__ = ["Finding", "Match", "diagnose", "find", "plan_of", "trace_of"]
