//! `-autocomplete-install` and `-autocomplete-uninstall`: lines in the files of the user's shells (posener/complete,
//! `cmd/install`). Files that are not there are not made, except fish's.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::super::console;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Order {
    Install,
    Uninstall,
    /// Both flags are given.
    Both,
}

/// Carries out the order for the program of this name.
pub(in super::super) fn run(order: Order, program: &str) -> ExitCode {
    let done = env::current_exe().map_err(|reason| reason.to_string()).and_then(|own| {
        let home = env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let home = home.ok_or("HOME is not set, so there are no files of a shell")?;
        let config = env::var_os("XDG_CONFIG_HOME").filter(|folder| !folder.is_empty());
        let config = config.map_or_else(|| home.join(".config"), PathBuf::from);
        carry_out(order, &home, &config, &own.display().to_string(), program)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            console::err(&reason);
            ExitCode::FAILURE
        }
    }
}

/// Every shell is tried. The errors of all are one text.
fn carry_out(order: Order, home: &Path, config: &Path, own: &str, program: &str) -> Result<(), String> {
    if order == Order::Both {
        return Err(
            "Either the autocomplete install or uninstall flag may be specified, but not both.".to_owned()
        );
    }
    let bash = [".bashrc", ".bash_profile", ".bash_login", ".profile"].map(|name| home.join(name));
    let bash = bash.into_iter().find(|file| file.exists());
    let zsh = Some(home.join(".zshrc")).filter(|file| file.exists());
    let fish = Some(config.join("fish")).filter(|folder| folder.is_dir());
    if bash.is_none() && zsh.is_none() && fish.is_none() {
        return Err("Did not find any shells to install".to_owned());
    }
    let mut errors = Vec::new();
    let mut note = |done: Result<(), String>| errors.extend(done.err());
    if let Some(file) = bash {
        note(line_in(order, &file, &format!("complete -C {own} {program}"), None));
    }
    if let Some(file) = zsh {
        let line = format!("complete -o nospace -C {own} {program}");
        note(line_in(order, &file, &line, Some("autoload -U +X bashcompinit && bashcompinit")));
    }
    if let Some(folder) = fish {
        note(fish_file(order, &folder.join("completions").join(format!("{program}.fish")), own, program));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// Adds a line to a file, or removes it. `needed` is a line that must come before it.
fn line_in(order: Order, file: &Path, line: &str, needed: Option<&str>) -> Result<(), String> {
    let failed = |reason: io::Error| format!("{}: {reason}", file.display());
    let text = fs::read_to_string(file).map_err(failed)?;
    let has = |wanted: &str| text.lines().any(|line| line == wanted);
    match (order, has(line)) {
        (Order::Uninstall, false) => Err(format!("not installed in {}", file.display())),
        (Order::Uninstall, true) => {
            let kept = text.lines().filter(|other| *other != line).map(|line| format!("{line}\n"));
            rewrite(file, &kept.collect::<String>()).map_err(failed)
        }
        (_, true) => Err(format!("already installed in {}", file.display())),
        (_, false) => {
            let before = needed.filter(|needed| !has(needed)).map(|needed| format!("{needed}\n"));
            let added = format!("\n{}{line}\n", before.unwrap_or_default());
            fs::OpenOptions::new()
                .append(true)
                .open(file)
                .and_then(|mut file| file.write_all(added.as_bytes()))
                .map_err(failed)
        }
    }
}

/// Writes a file in its place, because it may be a link to a file elsewhere. A copy is beside it meanwhile.
fn rewrite(file: &Path, text: &str) -> io::Result<()> {
    let mut copy = file.as_os_str().to_owned();
    copy.push(".bck");
    fs::copy(file, &copy)?;
    fs::write(file, text)?;
    fs::remove_file(copy)
}

fn fish_file(order: Order, file: &Path, own: &str, program: &str) -> Result<(), String> {
    let failed = |reason: io::Error| format!("{}: {reason}", file.display());
    match (order, file.exists()) {
        (Order::Uninstall, false) => Err(format!("not installed in {}", file.display())),
        (Order::Uninstall, true) => fs::remove_file(file).map_err(failed),
        (_, true) => Err(format!("already installed at {}", file.display())),
        (_, false) => {
            let folder = file.parent().unwrap_or_else(|| Path::new("/"));
            let text = FISH.replace("PROGRAM", program).replace("OWN", own);
            fs::create_dir_all(folder).and_then(|()| fs::write(file, text)).map_err(failed)
        }
    }
}

const FISH: &str = "
function __complete_PROGRAM
    set -lx COMP_LINE (commandline -cp)
    OWN
end
complete -f -c PROGRAM -a \"(__complete_PROGRAM)\"
";

#[cfg(test)]
mod tests {
    use super::*;

    fn order(order: Order, home: &Path) -> Result<(), String> {
        carry_out(order, home, &home.join(".config"), "/bin/finial", "finial")
    }

    #[test]
    fn lines_come_and_go() {
        let home = tempfile::tempdir().unwrap();
        let home = home.path();
        assert!(order(Order::Install, home).unwrap_err().contains("Did not find any shells"));
        assert!(order(Order::Both, home).unwrap_err().contains("not both"));
        let (bash, zsh) = (home.join(".bashrc"), home.join(".zshrc"));
        fs::write(&bash, "alias l=ls\n").unwrap();
        fs::write(&zsh, "").unwrap();
        fs::write(home.join(".profile"), "untouched").unwrap();
        fs::create_dir_all(home.join(".config/fish")).unwrap();
        order(Order::Install, home).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!(read(&bash), "alias l=ls\n\ncomplete -C /bin/finial finial\n");
        let lines =
            "\nautoload -U +X bashcompinit && bashcompinit\ncomplete -o nospace -C /bin/finial finial\n";
        assert_eq!(read(&zsh), lines);
        let fish = home.join(".config/fish/completions/finial.fish");
        assert!(read(&fish).contains("function __complete_finial\n"));
        let again = order(Order::Install, home).unwrap_err();
        assert_eq!(again.matches("already installed").count(), 3, "{again}");
        order(Order::Uninstall, home).unwrap();
        assert_eq!(read(&bash), "alias l=ls\n\n");
        assert!(!read(&zsh).contains("finial") && !fish.exists());
        assert_eq!(read(&home.join(".profile")), "untouched");
        assert_eq!(order(Order::Uninstall, home).unwrap_err().matches("not installed").count(), 3);
        assert!(!home.join(".bashrc.bck").exists());
    }
}
