"""``python -m fastbert`` is the command ``fastbert``."""

from __future__ import annotations

import sys

from fastbert.cli import main

sys.exit(main())
