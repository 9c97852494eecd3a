"""Narrow versions of the networks of keras.applications, for the zoo."""

BUILDERS: dict = {}
