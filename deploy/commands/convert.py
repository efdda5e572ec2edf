"""The verb that changes the format of a topology file."""

from __future__ import annotations

from pathlib import Path

import click

from deploy.commands.options import SET


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path), required=False)
@SET
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
@click.option(
    "--image", metavar="IMAGE", help="Of the services, in Kollaps XML.  [default: app:latest]"
)
def convert(
    *, source: Path, target: Path | None, sets: tuple[str, ...], force: bool, image: str | None
) -> int:
    """Write the topology SOURCE as TARGET; the suffixes say which formats.

    Read: .yaml, .xml (Kollaps), .graphml, .gml, .csv (latency matrix). Written: .yaml, .xml.
    Without TARGET, YAML is printed. What a format cannot say is a warning, or an error where the
    network would not be the same.

    \b
      deploy convert experiment.xml experiment.yaml
      deploy convert abilene.graphml abilene.yaml --set network.link.rate=1gbit
      deploy convert regions.csv --set format.latency=rtt
      deploy convert ring.yaml ring.xml
    """
    from deploy.convert import convert

    return convert(source, target, sets=sets, image=image, force=force)


COMMANDS = (convert,)
"""What `deploy.cli` adds."""
