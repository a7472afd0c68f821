"""Container images in one OCI archive, made without a registry and without a builder.

The archive that node-daemon/build-image makes, plus what is put on top of its image, plus images of one static program.
"""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_NAME = "io.containerd.image.name"


class Archive:
    """Images to come; `write` makes the file."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._images: dict[str, dict[str, Any]] = {}

    def read(self, path: Path) -> str:
        """Take over the one image of another archive; its name."""
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and member.name.startswith("blobs/") and (file := archive.extractfile(member)):
                    self._blobs[f"sha256:{member.name.rpartition('/')[2]}"] = file.read()
                elif member.name == "index.json" and (file := archive.extractfile(member)):
                    (descriptor,) = json.loads(file.read())["manifests"]
        name = str(descriptor["annotations"]["org.opencontainers.image.ref.name"])
        self._images[name] = {key: descriptor[key] for key in ("mediaType", "digest", "size")}
        return name

    def program(self, name: str, path: Path) -> None:
        """An image that is one static program."""
        config = {
            "architecture": _machine(path),
            "os": "linux",
            "config": {"Entrypoint": [f"/{path.name}"]},
            "rootfs": {"type": "layers", "diff_ids": []},
        }
        self._add(name, config, [], _layer({path.name: path}))

    def on_top(self, name: str, base: str, files: Mapping[str, Path], directory: str) -> None:
        """The image `base` with more files in it, each by its path there; commands run in `directory`."""
        manifest = json.loads(self._blobs[self._images[base]["digest"]])
        config = json.loads(self._blobs[manifest["config"]["digest"]])
        config["config"] = {**config["config"], "WorkingDir": directory, "Entrypoint": None}
        config.pop("history", None)
        self._add(name, config, manifest["layers"], _layer(files))

    def alias(self, name: str, other: str) -> None:
        """One more name of an image."""
        self._images[name] = self._images[other]

    def write(self, path: Path) -> None:
        """Write the archive."""
        manifests = [{**descriptor, "annotations": {_NAME: name}} for name, descriptor in self._images.items()]
        index = {"schemaVersion": 2, "mediaType": f"{_MEDIA}.index.v1+json", "manifests": manifests}
        with tarfile.open(path, "w") as archive:
            _put(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            for digest, data in self._blobs.items():
                _put(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", data)
            _put(archive, "index.json", json.dumps(index).encode())

    def _add(self, name: str, config: dict[str, Any], layers: Iterable[dict[str, Any]], layer: bytes) -> None:
        config["rootfs"]["diff_ids"] = [*config["rootfs"]["diff_ids"], _digest(layer)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_MEDIA}.manifest.v1+json",
            "config": self._blob(f"{_MEDIA}.config.v1+json", json.dumps(config).encode()),
            "layers": [*layers, self._blob(f"{_MEDIA}.layer.v1.tar+gzip", gzip.compress(layer, 1, mtime=0))],
        }
        self._images[name] = self._blob(f"{_MEDIA}.manifest.v1+json", json.dumps(manifest).encode())

    def _blob(self, kind: str, data: bytes) -> dict[str, Any]:
        self._blobs[_digest(data)] = data
        return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _layer(files: Mapping[str, Path]) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        for name, path in files.items():
            _put(archive, name, path.read_bytes(), mode=0o755)
    return layer.getvalue()


def _put(archive: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _machine(program: Path) -> str:
    """By its ELF header, in the words of images."""
    return {62: "amd64", 183: "arm64"}[int.from_bytes(program.read_bytes()[18:20], "little")]
