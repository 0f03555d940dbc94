"""Makes the LMDB of emoji that studies and recipes use: python scripts/studies/emoji.py OUTPUT [--package DIR]

The package is emoji-datasource-google 16.0.0 (Google's Noto Emoji, Apache-2.0), which
``npm install --no-save --no-package-lock emoji-datasource-google@16.0.0`` puts into node_modules. OUTPUT has the 1,911
images at 64 pixels that its emoji.json lists, those without skin-tone variants, with the keys that they always had.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the LMDB folder to make")
    parser.add_argument("--package", type=Path, default=Path("node_modules") / "emoji-datasource-google")
    arguments = parser.parse_args()
    listed = arguments.package / "emoji.json"
    if not listed.is_file():
        install = "npm install --no-save --no-package-lock emoji-datasource-google@16.0.0"
        sys.exit(f"--package {arguments.package}: holds no emoji.json; run {install}")
    images = [arguments.package / "img" / "google" / "64" / entry["image"] for entry in json.loads(listed.read_bytes())]
    build = [SCRIPTS / "build_lmdb.py", arguments.output, *images, "--size", "64", "--quality", "95"]
    sys.exit(subprocess.run([sys.executable, *map(str, build)]).returncode)


if __name__ == "__main__":
    main()
