//! `completion`: prints what makes a shell complete the command lines of this program.

use std::process::ExitCode;

use super::super::console;
use super::super::flags::FlagSet;

/// Runs `completion`.
pub(in super::super) fn run(arguments: &[String], program: &str) -> ExitCode {
    let script = match arguments.first().map(String::as_str) {
        Some("bash") => BASH,
        Some("zsh") => ZSH,
        Some("fish") => FISH,
        _ => {
            console::err(&format!("Usage: {program} completion bash|zsh|fish\n\n{HOW}"));
            return ExitCode::FAILURE;
        }
    };
    // The name of a function cannot have all characters of a file's name.
    let function: String =
        program.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    console::out(script.replace("FUNCTION", &function).replace("PROGRAM", program).trim_end());
    ExitCode::SUCCESS
}

/// `completion` has no flags.
pub(in super::super) const FLAGS: FlagSet = FlagSet { name: "completion", flags: &[] };
/// The shells that there are completion scripts for.
pub(super) const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];
/// How to use the scripts.
pub(in super::super) const HOW: &str = "\
The argument is a shell: bash, zsh or fish. The script is for the name by which the program is called.

  bash   finial completion bash > /etc/bash_completion.d/finial
  zsh    finial completion zsh > \"${fpath[1]}/_finial\"
  fish   finial completion fish > ~/.config/fish/completions/finial.fish";

/// The variables are set for the program alone. Values of flags are shown and quoted as files where they are some.
const BASH: &str = r#"# Completion of PROGRAM for bash.
_FUNCTION_complete() {
    local word=${COMP_WORDS[COMP_CWORD-1]}
    mapfile -t COMPREPLY < <(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" "$1" 2>/dev/null)
    case $word in
        -* | =) compopt -o filenames ;;
    esac
}
complete -o bashdefault -o default -F _FUNCTION_complete PROGRAM
"#;

/// The line is put together from the words before the cursor. Of `-flag=value` the value is completed.
const ZSH: &str = r#"#compdef PROGRAM
# Completion of PROGRAM for zsh.
_FUNCTION_complete() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a replies folders
    replies=("${(@f)$(COMP_LINE="$line" COMP_POINT= "${(Q)words[1]}" 2>/dev/null)}")
    replies=(${replies:#})
    compset -P '*='
    folders=(${(M)replies:#*/})
    replies=(${replies:#*/})
    (( $#folders )) && compadd -S '' -- $folders
    (( $#replies )) && compadd -- $replies
    (( $#folders + $#replies )) || _default
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _FUNCTION_complete "$@"
else
    compdef _FUNCTION_complete PROGRAM
fi
"#;

/// What the program says of `-flag=value` is the value alone, and fish wants the whole word.
const FISH: &str = r#"# Completion of PROGRAM for fish.
function __FUNCTION_complete
    set -l line (commandline -cp)
    set -l word (commandline -ct)
    set -l before (string match -r -- '^-.*?=' $word)
    for reply in (env COMP_LINE=$line COMP_POINT= (commandline -po)[1] 2>/dev/null)
        echo "$before$reply"
    end
end
complete -c PROGRAM -f -a '(__FUNCTION_complete)'
"#;
