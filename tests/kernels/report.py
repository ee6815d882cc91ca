"""Prints what the compilers say of every kernel for every target: ``make kernels-report``."""

from __future__ import annotations

import itertools
import sys

import attention_variants
import row_variants

if __name__ == "__main__":
    for line in itertools.chain(attention_variants.report(), [""], row_variants.report()):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()  # a kernel takes seconds to compile
