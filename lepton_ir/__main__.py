"""``python -m lepton_ir`` is ``lepton-opt``."""

from __future__ import annotations

import sys

from lepton_ir.tools.lepton_opt import main

if __name__ == "__main__":
    sys.exit(main())
