"""The command that prints a completion for the shell."""

import functools
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


def _completion(commands, options):
    cases = []
    for name, parser in commands.items():
        text = parser.format_help()
        words = sorted({*re.findall(r"(?<!\S)--[a-z][a-z-]*", text)})
        words += PRESETS if "MODEL" in text else ()
        cases.append(f'            {name}) words="{" ".join(words)}" ;;')
    print(SCRIPT.format(commands=" ".join(commands), cases="\n".join(cases)))


def completion(commands):
    """Adds the command for all that were added before."""
    command(
        "completion",
        functools.partial(_completion, commands.choices),
        "Print a completion for bash; zsh takes it after bashcompinit. "
        'To try it: eval "$(keras-glow completion)".',
    )(commands)
