#!/usr/bin/env python3
"""Images of programs: each with the shared libraries that it names, nothing else.

    images.py NAME:TAG OUTPUT.tar PROGRAM
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "image"))

from oci import Image  # noqa: E402


def program(tag, output, source, path=None):
    """An image with one program, at `path` or at the root."""
    path = path or "/" + os.path.basename(source)
    image = Image(tag, config={"Entrypoint": [path], "WorkingDir": "/"})
    image.directory("tmp", 0o1777)
    image.copy(path, source, 0o755)
    for library in libraries(source):
        image.copy(library, library, 0o755)
    image.write(output)


def agent(tag, output, source):
    """An agent where the official image has it."""
    path = "/opt/spire/bin/spire-agent"
    image = Image(tag, config={"Entrypoint": [path, "run"], "WorkingDir": "/opt/spire"})
    image.copy(path, source, 0o755)
    image.directory("tmp", 0o1777)
    image.write(output)


def shell(tag, output):
    """This machine's bash, and the few programs that init containers use."""
    image = Image(tag, config={"Entrypoint": ["/bin/bash"], "WorkingDir": "/", "Env": ["PATH=/bin"]})
    for name in ("bash", "chown", "ln", "readlink", "rm"):
        source = shutil.which(name)
        image.copy(f"bin/{name}", source, 0o755)
        for library in libraries(source):
            image.copy(library, library, 0o755)
    image.write(output)


def libraries(source):
    """What the loader names; a static program has none."""
    listed = subprocess.run(["ldd", source], capture_output=True, text=True, check=False)
    return sorted(set(re.findall(r"(/\S+) \(0x", listed.stdout))) if listed.returncode == 0 else []


if __name__ == "__main__":
    program(*sys.argv[1:4])
