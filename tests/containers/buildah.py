"""The worker image, built from the Dockerfile by Buildah, with bases that are made here if a registry has none to give.

Needs root, Buildah, debootstrap and Go. Nothing runs as a service. Images lie in a folder of the user's cache and are
used again: a second build runs only the steps that follow a change.
"""

from __future__ import annotations

import configparser
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Any

from tests.cluster.artifacts import CACHE

TOOLS = ("buildah", "debootstrap", "go")
CERTIFICATES = "/etc/ssl/certs"
DEBIAN = "bookworm"
# What the stand-in for Python's image has of Debian's.
PACKAGES = ("ca-certificates", "python3", "python3-venv")
# Options of pip that say where packages come from; the container needs this machine's.
PIP_OPTIONS = ("cert", "index-url", "extra-index-url", "proxy", "trusted-host")


class Failed(Exception):
    """A command failed; its last words."""


def missing() -> str | None:
    """Why no image can be built here; None if one can."""
    if os.geteuid() != 0:
        return "Buildah is used as root here, and this is another user"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"there is no {' and no '.join(lacking)}" if lacking else None


def run(command: Sequence[str], **options: Any) -> str:
    """A command's standard output, without white space at its ends.

    Raises:
      Failed: it returned another code than 0.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout.strip()


class Store:
    """Images and containers in a folder.

    Steps run in a changed root (`chroot`) and in this machine's network. So they also run where control groups cannot
    be made, as in a container or in a small virtual machine.
    """

    def __init__(self, folder: pathlib.Path = CACHE / "containers"):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._command = ["buildah", "--root", str(folder / "root"), "--runroot", str(folder / "run")]

    def buildah(self, *arguments: str, **options: Any) -> str:
        """The output of a command of Buildah.

        Raises:
          Failed: it returned another code than 0.
        """
        return run([*self._command, *arguments], **options)

    def command_in(self, container: str, command: Sequence[str], volumes: Sequence[str] = ()) -> list[str]:
        """The command line that runs a command in a container, as its user and in its working directory."""
        mounts = [word for volume in volumes for word in ("--volume", volume)]
        return [*self._command, "run", "--isolation", "chroot", "--network", "host", *mounts, container, "--", *command]

    def has(self, image: str) -> bool:
        """Whether an image is in this folder."""
        return bool(self.buildah("images", "--quiet", "--filter", f"reference={image}"))

    def layers(self, image: str) -> list[str]:
        """The hashes of an image's layers, from the base on."""
        layers: list[str] = json.loads(self.buildah("inspect", "--type", "image", image))["OCIv1"]["rootfs"]["diff_ids"]
        return layers

    def config(self, image: str) -> dict[str, Any]:
        """An image's configuration, with the keys of the OCI's specification: User, Entrypoint, WorkingDir, …"""
        config: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", image))["OCIv1"]["config"]
        return config

    # ---- bases

    def make_python(self, image: str) -> None:
        """Makes a stand-in for the image `python`: Debian's Python, with pip, in a virtual environment in /usr/local.

        The tag names a patch version; this is Debian's, which has the same minor version.
        """
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            include = f"--include={','.join(PACKAGES)}"
            run(["debootstrap", "--variant=minbase", include, DEBIAN, folder])
            shutil.rmtree(pathlib.Path(folder, "var/cache/apt/archives"))
            container = self.buildah("from", "scratch")
            self.buildah("add", "--quiet", container, folder, "/")
        run(self.command_in(container, ["python3", "-m", "venv", "/usr/local"]))
        self.buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self.buildah("commit", "--quiet", "--rm", container, image)

    def make_beam(self, image: str, version: str) -> None:
        """Makes a stand-in for Beam's image: its entry point, built from its source, and nothing else."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            package = f"github.com/apache/beam/sdks/v2/python/container@v{version}"
            # Without C, as Beam builds it: the image has another C library than this machine may have.
            run(["go", "install", package], env={**os.environ, "GOBIN": folder, "CGO_ENABLED": "0"})
            container = self.buildah("from", "scratch")
            boot = str(pathlib.Path(folder, "container"))
            self.buildah("add", "--quiet", "--chmod", "755", container, boot, "/opt/apache/beam/boot")
        self.buildah("commit", "--quiet", "--rm", container, image)

    # ---- the image

    def build(self, context: pathlib.Path, image: str) -> None:
        """Builds a folder's Dockerfile, with the bases that are in this folder.

        Raises:
          Failed: a step failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            settings = pathlib.Path(folder, "pip.conf")
            settings.write_text(_pip_settings())
            self.buildah(
                *("build", "--layers", "--pull-never", "--isolation", "chroot", "--network", "host", "--tag", image),
                *("--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--volume", f"{settings}:/etc/pip.conf:ro"),
                str(context),
            )


def _pip_settings() -> str:
    """Where this machine's pip gets packages from, as a file of settings; mounted for a build, and not in the image."""
    found = configparser.ConfigParser(interpolation=None)
    found.read(["/etc/pip.conf", pathlib.Path("~/.config/pip/pip.conf").expanduser()])
    names = {name: f"PIP_{name.upper().replace('-', '_')}" for name in PIP_OPTIONS}
    values = {name: os.environ.get(names[name]) or found.get("global", name, fallback=None) for name in PIP_OPTIONS}
    return "\n".join(["[global]", *(f"{name} = {value}" for name, value in values.items() if value), ""])


@dataclasses.dataclass(frozen=True)
class Container:
    """A container of an image, in which commands run as the image's user.

    Attributes:
      store: where it is.
      name: as Buildah calls it.
    """

    store: Store
    name: str

    def run(self, *command: str) -> str:
        """A command's standard output.

        Raises:
          Failed: it returned another code than 0.
        """
        return run(self.store.command_in(self.name, command))
