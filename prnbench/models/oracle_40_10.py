"""oracle_40_10: the oracle with 40 shape and 10 expression modes."""

from functools import partial

from prnbench.models import oracle

build = partial(oracle.build, shape=40, expression=10)
