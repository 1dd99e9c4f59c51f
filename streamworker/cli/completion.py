"""``streamworker completion``: prints the script that lets a shell complete commands and options."""

from __future__ import annotations

import click


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """Print the script for SHELL (bash, zsh or fish) that completes commands and options.

    \b
    Examples:
        bash   mkdir -p ~/.local/share/bash-completion/completions
               streamworker completion bash > ~/.local/share/bash-completion/completions/streamworker
        zsh    mkdir -p ~/.zfunc
               streamworker completion zsh > ~/.zfunc/_streamworker
               and in ~/.zshrc, above compinit: fpath+=~/.zfunc
        fish   streamworker completion fish > ~/.config/fish/completions/streamworker.fish

    It works in shells that are started afterwards. For this one alone, in bash:

    \b
        source <(streamworker completion bash)

    \b
    Exit codes:
        0  printed
        2  usage
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415  (--help loads nothing)

    complete = get_completion_class(shell)
    if complete is None:  # of a click that does not know it
        raise click.UsageError(f"the installed click has no completion for {shell}")
    # The variable is the one that click asks for when a command of this name is started.
    click.echo(complete(context.find_root().command, {}, "streamworker", "_STREAMWORKER_COMPLETE").source())
