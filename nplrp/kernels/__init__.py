"""The arithmetic, compiled by `nplrp.jit`: arrays and scalars in, arrays out."""
