#!/usr/bin/env python3
"""Builds the agent's image: the program, its keeper, a link with spire-agent's name, sds-load, CA certificates, directories.

    deploy/image/build.py --arch amd64 --output finial.tar
    deploy/image/build.py --arch arm64 --user 1000 --output finial-arm64.tar

Beside the image lies its bill of materials, NAME.cdx.json. Python's standard library and cargo are all that it needs;
another architecture needs its cross compiler too. README.md says why things are as they are.
"""

import argparse
import os
import pathlib
import struct
import subprocess
import sys

import sbom
from oci import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Architecture: target, ELF machine, what the C compiler is called when this is not the machine's own.
ARCHITECTURES = {
    "amd64": ("x86_64-unknown-linux-gnu", 62, "x86_64-linux-gnu-gcc"),
    "arm64": ("aarch64-unknown-linux-gnu", 183, "aarch64-linux-gnu-gcc"),
}
# Program: package. The agent, what keeps its sockets, and the load tester to size its node by.
PROGRAMS = {"finial": "finial", "finial-keep": "finial", "sds-load": "sds-load"}
# Where rustc makes a static PIE. Its relocations, packed, are half a MiB less to load and to hold (glibc 2.36).
POSITION_INDEPENDENT = ["x86_64-unknown-linux-gnu"]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Written to while it runs, as in the official image.
OWN = ["run/spire/agent/public", "tmp/spire-agent/public", "var/lib/spire/agent"]


def main():
    arguments = parse()
    target, machine, compiler = ARCHITECTURES[arguments.arch]
    programs = built_before(arguments.program) if arguments.program else cargo_build(target, compiler)
    for program in programs.values():
        check(program, machine)
    packed = pack(arguments, programs).write(arguments.output)
    bill = arguments.output.with_suffix(".cdx.json")
    sbom.write(bill, ROOT, programs, target, c_compiler(target, compiler), arguments.certificates)
    print(f"{arguments.output}: {arguments.tag}, {arguments.arch}, user {arguments.user}: "
          f"{packed[0] / 2**20:.1f} MiB, {packed[1] / 2**20:.1f} MiB packed; {bill.name} beside it")


def parse():
    parser = argparse.ArgumentParser(description="Builds the agent's image.")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64")
    parser.add_argument("--user", type=int, default=0, metavar="UID", help="runs as UID:UID (default 0)")
    parser.add_argument("--tag", default="localhost/finial:dev")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("finial.tar"))
    parser.add_argument("--program", type=pathlib.Path,
                        help="a static finial built before, and the finial-keep beside it, instead of building; "
                             "sds-load is left out")
    parser.add_argument("--certificates", type=pathlib.Path, default=pathlib.Path(CERTIFICATES),
                        help="CA certificates, PEM (default: those of this machine)")
    return parser.parse_args()


def built_before(program):
    beside = program.with_name("finial-keep")
    return {"finial": program} | ({"finial-keep": beside} if beside.exists() else {})


def cargo_build(target, compiler):
    """Static programs by name: glibc is linked in, so the image needs no loader and no library."""
    cargo_home = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    flags = [
        "-Ctarget-feature=+crt-static",
        f"--remap-path-prefix={cargo_home}/registry/src=/registry",
        # The system call, without looking for it in a C library that is not there: that would need /dev/urandom.
        "--cfg=getrandom_backend=\"linux_getrandom\"",
    ]
    environment = dict(os.environ)
    if target in POSITION_INDEPENDENT:
        flags.append("-Clink-arg=-Wl,-z,pack-relative-relocs")
    if not native(target):
        name = target.replace("-", "_")
        environment |= {f"CC_{name}": compiler, f"CARGO_TARGET_{name.upper()}_LINKER": compiler}
    environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join(flags)
    folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), target, "release")
    # One after another: built together, each would have the features that the other asks of a crate.
    for name, package in PROGRAMS.items():
        command = ["cargo", "build", "--locked", "--release", "--package", package, "--bin", name, "--target", target]
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return {name: folder / name for name in PROGRAMS}


def native(target):
    return target.startswith(os.uname().machine)


def c_compiler(target, compiler):
    return "cc" if native(target) else compiler


def check(program, machine):
    """A program for another machine, or one that needs a loader, would start nowhere."""
    head = program.read_bytes()[:4096]
    if head[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", head, 18)[0] != machine:
        sys.exit(f"{program} is no ELF program for this architecture")
    offset, = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    kinds = [struct.unpack_from("<I", head, offset + index * size)[0] for index in range(count)]
    if 3 in kinds:  # PT_INTERP
        sys.exit(f"{program} is linked dynamically; the image has no loader")


def pack(arguments, programs):
    owner = (arguments.user, arguments.user)
    image = Image(arguments.tag, arguments.arch, {
        "User": f"{arguments.user}:{arguments.user}",
        "Entrypoint": ["/opt/spire/bin/spire-agent", "keep"],
        "WorkingDir": "/opt/spire",
        "Env": ["PATH=/opt/spire/bin"],
        "Labels": {
            "org.opencontainers.image.title": "finial",
            "org.opencontainers.image.version": sbom.version(ROOT),
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    })
    for name, program in programs.items():
        image.copy(f"opt/spire/bin/{name}", program, 0o755)
    image.link("opt/spire/bin/spire-agent", "finial")
    image.copy(CERTIFICATES, arguments.certificates)
    image.directory("etc/spire/agent")
    image.directory("tmp", 0o1777)
    for path in OWN:
        image.directory(path, owner=owner)
    return image


if __name__ == "__main__":
    main()
