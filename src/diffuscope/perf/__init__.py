"""Fast twins of the networks: the same weights and the same numbers up to rounding, in fewer and larger steps.

The plain networks in ``models`` are the definition. A twin holds no weights of its own, runs without taps, and leaves
everything that it cannot do to the plain network.
"""
