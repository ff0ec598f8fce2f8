"""The command that prints a completion for the shell."""

import re

from keras_glow.cli.options import command
from keras_glow.files.presets import PRESETS

SCRIPT = """_keras_glow() {{
    local words="{commands}"
    if [ "$COMP_CWORD" -gt 1 ]; then
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _keras_glow keras-glow"""


@command()
def completion(options):
    """Print a completion for bash; zsh takes it after bashcompinit.

    To try it: eval "$(keras-glow completion)".
    """
    cases = []
    for name, parser in options.commands.items():
        text = parser.format_help()
        words = sorted({*re.findall(r"(?<!\S)--[a-z][a-z-]*", text)})
        words += PRESETS if "MODEL" in text else ()
        cases.append(f'            {name}) words="{" ".join(words)}" ;;')
    commands = " ".join(options.commands)
    print(SCRIPT.format(commands=commands, cases="\n".join(cases)))
