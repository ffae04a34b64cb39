"""`troupe --help`, and the help of each verb and each family."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cluster.cli.parser import HELP, Command, options_of
from cluster.requests.models import REQUESTS
from cluster.terminal.tables import paragraphs, table, width_of
from trainers.settings.fields import GROUPS, Described


def help_text(command: Command) -> str:
    """`troupe --help`, `troupe VERB --help`, and `troupe train FAMILY --help` with every setting."""
    width = width_of(sys.stdout)
    if command.verb not in REQUESTS:
        rows = [{"": f"  {name}", " ": model.summary} for name, model in REQUESTS.items()]
        verbs = table(rows, width=width, heads=False)
        return (
            paragraphs(
                "Train GANs and classifiers data-parallel, on this machine or on a Ray cluster.\n\n"
                "usage: troupe VERB [FAMILY|NAME] [key=value ...] [--option ...]\n"
            )
            + f"\n{verbs}\n\n"
            + paragraphs(
                "`troupe VERB --help` shows its options, `troupe train FAMILY --help` the settings of a family.\n"
                "Exit codes: 0 success, 1 failure, 2 usage error, 3 environment error, 4 conflict of names or "
                "settings, 130 stopped on request after saving."
            )
        )
    model = REQUESTS[command.verb]
    settings = ["[key=value ...]"] if model.takes_settings() else []
    usage = " ".join([f"troupe {command.verb}", *model.positions().values(), *settings, "[--option ...]"])
    options = [{"": f"--{o.name} {o.value}".strip(), " ": o.help} for o in (*options_of(command.verb), HELP)]
    summary = f"{model.summary[0].upper()}{model.summary[1:]}.\n\nusage: {usage}\n   as: {model.example}\n"
    text = f"{paragraphs(summary)}\n{table(options, width=width, heads=False)}"
    if command.verb == "sample":
        text += "\n\n" + paragraphs("Further settings depend on the family of the run: `class=3`, `prompt=...`.")
    elif model.takes_settings() and command.names:
        from trainers.families import registry

        kind = registry.config_class(command.names[0], command.families)
        title = f"Settings of {command.names[0]}, {kind.summary}."
        marks = "Those marked * can change when a run is resumed; all others define the run."
        text += "\n\n" + paragraphs(f"{title} {marks}")
        text += _tables([*kind.described(command.settings)], width)
    elif model.takes_settings():
        text += "\n\n" + paragraphs(f"`troupe {command.verb} FAMILY --help` shows the settings of a family.")
    return text


def arguments_of(command: Command) -> dict[str, Any]:
    """The JSON schema of what a verb takes, as `arguments`, with the settings of a family if one is named."""
    if command.verb not in REQUESTS:
        return {}
    model, kind = REQUESTS[command.verb], None
    if model.takes_settings() and command.verb != "sample" and command.names:
        from trainers.families import registry

        kind = registry.config_class(command.names[0], command.families)
    return {"arguments": model.argument_schema(kind)}


def _tables(settings: Sequence[Described], width: int) -> str:
    """A table of settings per group, with equal column widths."""
    rows = [_row(setting) for setting in settings]
    name, default = (max(len(row[column]) for row in rows) for column in (0, 1))
    text = ""
    for group in GROUPS:
        heads = (group.capitalize().ljust(name), "default".ljust(default), "")
        own = [row for row, setting in zip(rows, settings, strict=True) if setting.group == group]
        text += f"\n\n{table([dict(zip(heads, row, strict=True)) for row in own], width=width)}" if own else ""
    return text


def _row(setting: Described) -> tuple[str, str, str]:
    """A setting's name, default and help."""
    unit = f" {setting.unit}" if setting.unit and setting.default[:1].isdigit() else ""
    parts = [setting.help, setting.bounds, f"in {setting.unit}" if setting.unit and not unit else ""]
    source = f" [{setting.source}]" if setting.source else ""
    name = setting.name + (" *" if setting.kind == "running" else "")
    return name, setting.default + unit, "; ".join(filter(None, parts)) + source
