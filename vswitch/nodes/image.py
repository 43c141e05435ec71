"""The built-in guest image: the distribution's kernel, busybox and our agent; built once, cached by content.

    $XDG_CACHE_HOME/vswitch/images/<key>/   vmlinuz, initrd, initrd-uml, image.json
    $XDG_CACHE_HOME/vswitch/packages/       the packages it was built from

The key is a hash of everything that goes in. A directory appears complete or not at all, by one rename, so builds need
no lock: of two at once, one wins and the other throws its work away.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from ..errors import MachineError
from .agent import agent_program

_RECIPE = 3  # raise it when image_initramfs.py makes something else of the same ingredients


class Ingredients(Struct, frozen=True, kw_only=True):
    """What an image was made from; `kernel` and `busybox` are packages with their versions."""

    recipe: int
    machine: str
    agent: str
    kernel: tuple[str, ...]
    busybox: str

    @property
    def key(self) -> str:
        """The name of the image made from these."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


class Image(Struct, frozen=True, kw_only=True):
    """A built image. `built` is in seconds since the epoch, `current` whether it has today's agent and recipe."""

    directory: Path
    ingredients: Ingredients
    built: float
    current: bool

    @property
    def key(self) -> str:
        """Its name."""
        return self.directory.name

    @property
    def kernel(self) -> Path:
        """The kernel, for QEMU's -kernel."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The initramfs, for QEMU's -initrd."""
        return self.directory / "initrd"

    @property
    def uml_initrd(self) -> Path:
        """The same without modules, for User-Mode Linux."""
        return self.directory / "initrd-uml"

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.directory.iterdir())


def cache_home() -> Path:
    """Our directory under $XDG_CACHE_HOME (else ~/.cache), which may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "vswitch"


def list_images() -> list[Image]:
    """All built images, newest first."""
    try:
        agent = _agent_hash()
    except MachineError:
        agent = ""
    images = []
    for manifest in (cache_home() / "images").glob("[!.]*/image.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            made_from = msgspec.json.decode(manifest.read_bytes(), type=Ingredients)
            current = (made_from.recipe, made_from.machine, made_from.agent) == (_RECIPE, platform.machine(), agent)
            built = manifest.stat().st_mtime
            images.append(Image(directory=manifest.parent, ingredients=made_from, built=built, current=current))
    return sorted(images, key=lambda image: image.built, reverse=True)


def built_image() -> Image | None:
    """The newest image that has today's agent and recipe, None when none is built."""
    return next((image for image in list_images() if image.current), None)


def default_image() -> Image:
    """The image for nodes that bring none of their own. Raises MachineError when it is not built."""
    image = built_image()
    if image is None:
        raise MachineError("the guest image is not built yet; run: lab image build")
    return image


def build_image(say: Callable[[str], None], *, force: bool = False) -> Image:
    """Build the image from the newest packages, unless it is there; `say` hears each step.

    Where apt cannot name any packages, a current image built earlier serves. Raises MachineError.
    """
    from .image_packages import find_packages

    try:
        packages = find_packages()
    except MachineError as error:
        image = built_image()
        if image is None or force:
            raise
        say(f"{error}; using image {image.key}, built before")
        return image
    ingredients = Ingredients(
        recipe=_RECIPE,
        machine=platform.machine(),
        agent=_agent_hash(),
        kernel=tuple(map(str, packages.kernel)),
        busybox=str(packages.busybox),
    )
    for image in list_images():
        if image.key == ingredients.key and not force:
            return image
    images = cache_home() / "images"
    images.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=images, prefix=".build-"))
    try:
        _build(work, ingredients, say)
        _install(work / "image", images / ingredients.key, replace=force)
    except OSError as error:
        raise MachineError(f"building the guest image: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return next(image for image in list_images() if image.key == ingredients.key)


def _build(work: Path, ingredients: Ingredients, say: Callable[[str], None]) -> None:
    from .image_initramfs import write_initramfs
    from .image_packages import Package, unpack

    for text in (*ingredients.kernel, ingredients.busybox):
        unpack(Package(*text.split(" ")), work / "tree", cache_home() / "packages", say)
    say("writing the initramfs")
    target = work / "image"
    target.mkdir(mode=0o755)
    kernel = next((work / "tree" / "boot").glob("vmlinuz-*"), None)
    if kernel is None:
        raise MachineError(f"there is no kernel in {ingredients.kernel[0]}")
    shutil.copyfile(kernel, target / "vmlinuz")
    for name, modules in (("initrd", True), ("initrd-uml", False)):
        with (target / name).open("wb") as file:
            write_initramfs(file, work / "tree", agent_program(), modules=modules)
    (target / "image.json").write_bytes(msgspec.json.encode(ingredients))


def _install(work: Path, target: Path, *, replace: bool) -> None:
    """Move a complete image to its place; where another build was first, keep that one."""
    if replace and target.exists():
        target.rename(work.with_name("replaced"))
    try:
        work.rename(target)
    except OSError:
        if not (target / "image.json").exists():
            raise


def remove_image(image: Image) -> None:
    """Delete an image; machines that run from it are not affected."""
    gone = image.directory.with_name(f".gone-{image.key}-{time.monotonic_ns()}")
    image.directory.rename(gone)
    shutil.rmtree(gone)


def _agent_hash() -> str:
    return hashlib.sha256(agent_program().read_bytes()).hexdigest()
