"""The ``polywire`` command. One module per command, loaded when it is called: starting must be quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

__all__ = ["main"]

COMMANDS = {
    "run": ("run", "Serve an application, or an open hub without one."),
    "pub": ("pub", "Publish messages to a topic."),
    "sub": ("sub", "Follow a topic, as tail -f follows a file."),
    "call": ("call", "Call an operation."),
    "operations": ("operations", "List the operations."),
    "openapi": ("openapi", "Print the OpenAPI document of an application, or of a running hub."),
    "topics": ("topics", "List, create, show and delete topics."),
    "subscriptions": ("subscriptions", "List and look after subscriptions; pull from them."),
    "dead-letters": ("dead_letters", "List, delete or purge the dead letters of a subscription."),
    "redrive": ("redrive", "Put dead letters back into their subscription."),
    "api-keys": ("api_keys", "Create, list and revoke API keys."),
    "dev-certs": ("dev_certs", "Make certificates for TLS on this machine."),
    "verify": ("verify", "Check the log of a stopped hub; prints JSON."),
    "backup": ("backup", "Copy the log of a running hub."),
    "restore": ("restore", "Make a data folder from a backup."),
}
"""Name on the command line: module and attribute, and what ``polywire --help`` says without loading it."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name][0]
        command: click.Command = getattr(importlib.import_module(f"polywire.cli.{module}"), module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _show_version(ctx: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from polywire import __version__

        click.echo(f"polywire {__version__}")
        ctx.exit()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show it.")
def polywire() -> None:
    """Polywire: declare topics once, in Python; every protocol speaks them.

    The commands other than run, verify and restore talk to a running hub: --url or POLYWIRE_URL says where it is
    (http://127.0.0.1:8000), --api-key or POLYWIRE_KEY who is asking.
    """


def main(arguments: Sequence[str] | None = None) -> Any:
    """Exit codes: 0; 1 a fault, or the hub's refusal; 2 usage, port, settings, data folder.

    The last line on stderr is the reason.
    """
    from polywire.cli.failures import Failure, show_failure

    try:
        code = polywire.main(args=arguments, prog_name="polywire", standalone_mode=False)
    except Failure as failure:
        show_failure(str(failure))
        code = failure.exit_code
    except click.UsageError as error:
        error.show()
        code = 2
    except click.ClickException as error:
        show_failure(error.format_message())
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # `polywire topics | head`: nobody reads on
        _close_quietly()
        code = 1
    sys.exit(code if isinstance(code, int) else 0)


def _close_quietly() -> None:
    """Python would complain about the broken pipe once more, when it flushes at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
