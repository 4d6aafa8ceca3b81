"""Random modules from op level up, with torch itself as the oracle of all that is done with them.

A :class:`~tests.random_modules.recipes.Recipe` is a list of steps on a pool of features
``[batch, sequence, size]``: joins, pads, reductions, views, gathers, writes, masks, branches on size,
functions with a gradient of their own, ties, blocks. ``examine``
captures the module that it describes and holds every promise to it.

    python -m tests.random_modules --draws 2000 --seed 0
"""
