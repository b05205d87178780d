"""The commands of `strake`, and what an error becomes."""

from __future__ import annotations

import json
import os
import sys

import click
from click.shell_completion import get_completion_class

from strake_cli import __version__, endpoints, environment, login, running, tokens, traffic
from strake_cli.doctor import doctor
from strake_cli.errors import CliError
from strake_cli.output import plain

_EPILOG = """\b
Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 3 not signed in,
4 no such endpoint or token, 5 Strake does not answer, 130 interrupted.
`strake run` ends with the exit code of its program.

STRAKE_URL names the server, and STRAKE_ACCESS_TOKEN replaces the stored access token."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.version_option(__version__, prog_name="strake")
def strake() -> None:
    """Endpoints and tokens of Strake, and tools that use them for exactly as long as they run."""


@strake.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(strake completion bash)"     in ~/.bashrc
    zsh:  eval "$(strake completion zsh)"      in ~/.zshrc
    fish: strake completion fish | source      in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    if found is None:
        raise CliError(f"There is no completion for {shell}.")
    click.echo(found(strake, {}, "strake", "_STRAKE_COMPLETE").source())


for command in (
    login.login,
    login.logout,
    login.whoami,
    endpoints.connect,
    endpoints.list_endpoints,
    endpoints.show,
    endpoints.rename,
    endpoints.pause,
    endpoints.resume,
    endpoints.replace_key,
    endpoints.delete,
    tokens.tokens,
    traffic.usage,
    traffic.audit,
    running.run,
    environment.env,
    environment.token,
    doctor,
):
    strake.add_command(command)


def main() -> None:
    """Run one command and end with its exit code."""
    os.umask(0o077)
    try:
        strake.main(prog_name="strake", standalone_mode=False)
    except click.exceptions.Exit as end:
        sys.exit(end.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\n")
        sys.exit(130)
    except CliError as error:
        _report(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more can be written at the end
        sys.exit(1)


def _report(error: CliError) -> None:
    if "--json" in sys.argv[1 : sys.argv.index("--") if "--" in sys.argv else None]:
        sys.stderr.write(json.dumps({"error": {"code": error.code, "message": str(error)}}) + "\n")
    else:
        sys.stderr.write(f"strake: {plain(str(error))}\n")
