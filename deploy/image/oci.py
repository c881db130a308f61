"""Container images from a list of files: an OCI layout in a tar, without a base image or a container engine.

The same input gives the same bytes: entries are sorted, times are 0, owners are numbers, gzip has no name and no time.
`manifest.json` lies beside `index.json`, so what knows only Docker's format can load the file too.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass, field


@dataclass
class Image:
    """What goes into one image. Parent directories appear by themselves, 0755 root."""

    tag: str
    arch: str = "amd64"
    config: dict = field(default_factory=dict)
    entries: dict = field(default_factory=dict)

    def directory(self, path, mode=0o755, owner=(0, 0)):
        self._add(path, tarfile.DIRTYPE, mode, owner)

    def link(self, path, target):
        self._add(path, tarfile.SYMTYPE, 0o777, (0, 0), target=target)

    def file(self, path, content, mode=0o644, owner=(0, 0)):
        self._add(path, tarfile.REGTYPE, mode, owner, content=content)

    def copy(self, path, source, mode=0o644):
        with open(source, "rb") as file:
            self.file(path, file.read(), mode)

    def _add(self, path, kind, mode, owner, target="", content=b""):
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.directory(parent)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode, (entry.uid, entry.gid) = kind, mode, owner
        entry.linkname, entry.size = target, len(content)
        self.entries[path] = (entry, content)

    def layer(self):
        """The file system as an uncompressed tar."""
        return _tar((entry, content) for _, (entry, content) in sorted(self.entries.items()))

    def write(self, output):
        """Writes the image; returns the sizes of its layer, (unpacked, packed)."""
        blobs = {}

        def put(content):
            digest = hashlib.sha256(content).hexdigest()
            blobs[f"blobs/sha256/{digest}"] = content
            return {"digest": f"sha256:{digest}", "size": len(content)}

        layer = self.layer()
        packed = gzip.compress(layer, compresslevel=9, mtime=0)
        config = put(_json({
            "architecture": self.arch,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        }))
        stored = put(packed)
        kind = "application/vnd.oci.image"
        manifest = put(_json({
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", **config},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", **stored}],
        }))
        name = {"io.containerd.image.name": self.tag, "org.opencontainers.image.ref.name": self.tag}
        files = {
            "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
            "index.json": _json({
                "schemaVersion": 2,
                "mediaType": f"{kind}.index.v1+json",
                "manifests": [{
                    "mediaType": f"{kind}.manifest.v1+json",
                    **manifest,
                    "platform": {"architecture": self.arch, "os": "linux"},
                    "annotations": name,
                }],
            }),
            "manifest.json": _json([{
                "Config": _path(config), "RepoTags": [self.tag], "Layers": [_path(stored)],
            }]),
            **blobs,
        }
        with open(output, "wb") as file:
            file.write(_tar((_plain(path, content), content) for path, content in sorted(files.items())))
        return len(layer), len(packed)


def _path(stored):
    return "blobs/sha256/" + stored["digest"].removeprefix("sha256:")


def _plain(path, content):
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), 0o644
    return entry


def _tar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
