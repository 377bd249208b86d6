"""oracle_100_29: the oracle with 100 shape and 29 expression modes."""

from functools import partial

from prnbench.models import oracle

build = partial(oracle.build, shape=100, expression=29)
