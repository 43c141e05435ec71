"""`lab image`."""

from __future__ import annotations

import click

from .listing import format_option, show


@click.group("image")
def command() -> None:
    """Build, list and remove guest images: the tiny Linux that machines boot when they bring no kernel or disk."""


@command.command("build")
@click.option("--force", is_flag=True, help="Build it again even if it is there.")
def build(force: bool) -> None:
    """Build the guest image from the distribution's packages, unless it is there. Needs apt, but not root."""
    from ..nodes.image import build_image

    image = build_image(lambda step: click.echo(step, err=True), force=force)
    click.echo(image.directory)


@command.command("ls")
@format_option
def ls(form: str) -> None:
    """List the images that are built. A current one has the agent of this version of vswitch."""
    import time

    from ..nodes.image import list_images
    from .listing import age

    rows = [
        {
            "image": image.key,
            "current": "yes" if image.current else "no",
            "kernel": ", ".join(image.ingredients.kernel),
            "busybox": image.ingredients.busybox,
            "mib": image.size / 2**20,
            "age": age(time.time() - image.built),
            "directory": str(image.directory),
        }
        for image in list_images()
    ]
    show(rows, ["image", "current", "kernel", "busybox", "mib", "age"], form, empty="no image is built")


@command.command("rm")
@click.argument("images", nargs=-1)
@click.option("--old", is_flag=True, help="Remove all that are not current.")
@click.option("--all", "everything", is_flag=True, help="Remove all.")
def rm(images: tuple[str, ...], old: bool, everything: bool) -> None:
    """Remove images, named as `lab image ls` shows them. Running machines are not affected."""
    from ..errors import LabError
    from ..nodes.image import list_images, remove_image

    known = {image.key: image for image in list_images()}
    if unknown := [name for name in images if name not in known]:
        raise LabError(f"no image {', '.join(unknown)}; there is: {', '.join(known) or 'none'}")
    if not (images or old or everything):
        raise click.UsageError("name the images to remove, or give --old or --all")
    for image in known.values():
        if everything or image.key in images or (old and not image.current):
            remove_image(image)
            click.echo(f"removed {image.key}")
