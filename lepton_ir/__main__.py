"""``python -m lepton_ir`` is ``lepton-opt``."""

from __future__ import annotations

from lepton_ir.tools.lepton_opt import run

if __name__ == "__main__":
    run()
