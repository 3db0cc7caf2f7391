"""Check types on the wheel's layout: ``python -m lepton_ir.tools.typecheck [mypy options]``.

In a checkout the sub-packages lie beside ``lepton_ir/``, where mypy cannot follow the bridge. So
this makes a tree of links in the layout that a wheel installs (from ``package-dir`` in
``pyproject.toml``) and runs ``mypy --strict -p lepton_ir`` there. Paths in mypy's messages are
turned back into those of the checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_dirs(root: Path) -> dict[str, str]:
    """The ``package-dir`` table of the checkout at ``root``: package -> folder."""
    with (root / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["tool"]["setuptools"]["package-dir"]
    return {str(package): str(folder) for package, folder in table.items()}


def link_tree(root: Path, target: Path) -> None:
    """Make ``target`` look like the folder into which a wheel of ``root`` is installed.

    A package that contains another one (``lepton_ir`` contains ``lepton_ir.passes``) becomes a
    folder of links, any other one a single link.
    """
    shutil.rmtree(target, ignore_errors=True)
    packages = package_dirs(root)
    for package, folder in sorted(packages.items()):
        place = target.joinpath(*package.split("."))
        if not any(other.startswith(package + ".") for other in packages):
            place.symlink_to(root / folder, target_is_directory=True)
            continue
        place.mkdir(parents=True)
        for child in sorted((root / folder).iterdir()):
            if child.name != "__pycache__":
                (place / child.name).symlink_to(child, target_is_directory=child.is_dir())


def main(options: list[str] | None = None) -> int:
    """Run mypy; returns its exit code."""
    if not (ROOT / "pyproject.toml").is_file():
        print(
            "error: types are checked in a checkout, and this is an installed package",
            file=sys.stderr,
        )
        return 1
    cache = ROOT / ".cache" / "typecheck"
    layout = cache / "layout"
    link_tree(ROOT, layout)
    command = [sys.executable, "-m", "mypy", "--strict", "-p", "lepton_ir"]
    command += ["--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(cache / "mypy")]
    command += sys.argv[1:] if options is None else options
    environment = {key: value for key, value in os.environ.items() if key != "MYPYPATH"}
    result = subprocess.run(command, cwd=layout, env=environment, text=True, stdout=subprocess.PIPE)
    print(_checkout_paths(result.stdout), end="")
    return result.returncode


def _checkout_paths(text: str) -> str:
    for package, folder in sorted(package_dirs(ROOT).items(), key=lambda item: -len(item[0])):
        inside = re.escape(package.replace(".", "/"))
        text = re.sub(rf"^{inside}/", f"{folder}/", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    sys.exit(main())
