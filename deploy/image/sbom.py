"""The bill of materials: CycloneDX, from what cargo resolves for the programs. The same input gives the same bytes."""

import json
import re
import subprocess
import tomllib


def version(root):
    """The agent's version."""
    return tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["package"]["version"]


def write(output, root, programs, target, compiler, certificates):
    """Crates that are linked in (not those that only build), the C library, the CA certificates. The first of the
    programs is what the bill is of."""
    depends, tops = {}, []
    for program in programs:
        tree = cargo(root, "tree", "--locked", "--package", program, "--target", target, "--edges",
                     "normal,no-proc-macro", "--prefix", "depth", "--format", "|{p}|")
        found, top = edges(tree)
        tops.append(top)
        for key, others in found.items():
            depends.setdefault(key, set()).update(others)
    top = tops[0]
    packages = known(root, target)
    checksums = {
        (package["name"], package["version"]): package["checksum"]
        for package in tomllib.loads((root / "Cargo.lock").read_text())["package"] if "checksum" in package
    }
    components = [crate(packages[key], checksums.get(key)) for key in sorted(depends) if key != top]
    rust = subprocess.run(["rustc", "--version"], cwd=root, capture_output=True, text=True, check=True).stdout.split()[1]
    components += [
        {"type": "library", "name": "rust-std", "version": rust, "licenses": licence("MIT OR Apache-2.0")},
        {"type": "library", "name": "glibc", "version": glibc(compiler), "licenses": licence("LGPL-2.1-or-later")},
        {"type": "data", "name": "ca-certificates",
         "description": f"{certificates.read_text().count('BEGIN CERTIFICATE')} certificates of {certificates.name}"},
    ]
    output.write_text(json.dumps({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": crate(packages[top], None) | {"type": "application"}},
        "components": components,
        "dependencies": [
            {"ref": reference(key), "dependsOn": [reference(other) for other in sorted(others)]}
            for key, others in sorted(depends.items())
        ],
    }, indent=1) + "\n")


def edges(tree):
    """Who depends on whom; a line is `DEPTH|name vVERSION (more)|`, and what it depends on follows one deeper."""
    depends, path = {}, []
    for depth, name, number in re.findall(r"^(\d+)\|(\S+) v(\S+?)(?: .*)?\|", tree, re.M):
        key = (name, number)
        path[int(depth):] = [key]
        depends.setdefault(key, set())
        if len(path) > 1:
            depends[path[-2]].add(key)
    return depends, path[0]


def known(root, target):
    metadata = json.loads(cargo(root, "metadata", "--locked", "--format-version", "1", "--filter-platform", target))
    return {(package["name"], package["version"]): package for package in metadata["packages"]}


def crate(package, checksum):
    key = (package["name"], package["version"])
    component = {
        "type": "library", "bom-ref": reference(key), "name": key[0], "version": key[1], "purl": reference(key),
    }
    if package["license"]:
        # Some crates still separate licences by a slash.
        component["licenses"] = licence(package["license"].replace("/", " OR "))
    if checksum:
        component["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return component


def reference(key):
    return f"pkg:cargo/{key[0]}@{key[1]}"


def licence(expression):
    return [{"expression": expression}]


def glibc(compiler):
    path = subprocess.run([compiler, "--print-file-name=libc.so.6"], capture_output=True, text=True, check=True)
    with open(path.stdout.strip(), "rb") as library:
        found = re.search(rb"GNU C Library \((.*?)\)", library.read())
    return found[1].decode() if found else "unknown"


def cargo(root, *arguments):
    return subprocess.run(["cargo", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout
