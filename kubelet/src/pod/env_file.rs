//! Environment variables from a file in one of the pod's volumes, which an init container wrote.
//!
//! Source: KEP-3721 "Support for env files"; `fileKeyRef` in the API reference.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// The text of the file at `path` in the volume, which symbolic links cannot lead out of.
///
/// # Errors
/// There is no such file; or it is none, too long, or no text.
pub fn read(volume: &Path, path: &str) -> io::Result<String> {
    let root: OwnedFd = File::open(volume)?.into();
    // Without waiting: a pipe would hold up the kubelet.
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how)?);
    let found = file.metadata()?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(io::Error::other(format!("not a file of at most {LONGEST} bytes")));
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The value of a variable in lines of `NAME='value'`. What is in single quotes counts as it stands, over several lines
/// too; blank lines and comments, also behind a value, are passed over. None if it is not there or empty.
///
/// # Errors
/// What is wrong in the lines up to the variable.
pub fn value(text: &str, key: &str) -> Result<Option<String>, String> {
    let mut rest = text;
    let mut line = 0;
    while !rest.is_empty() {
        line += 1;
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {line}: {what}"));
        let (this, below) = first_line(rest);
        let head = this.trim_start_matches(BLANK);
        if head.is_empty() || head.starts_with('#') {
            rest = below;
            continue;
        }
        let Some((name, _)) = head.split_once('=') else { return wrong("missing '='") };
        match name.trim_end_matches(BLANK) {
            "" => return wrong("empty variable name"),
            n if n != name => return wrong("whitespace before '=' is not allowed"),
            _ => {}
        }
        let assigned = &rest[this.len() - head.len() + name.len() + 1..];
        if assigned.starts_with(BLANK) {
            // Nothing is assigned, as in a shell.
            if name == key {
                return Ok(None);
            }
            rest = below;
            continue;
        }
        let Some(quoted) = assigned.strip_prefix('\'') else {
            return wrong("value must be enclosed in single quotes");
        };
        let Some((found, behind)) = quoted.split_once('\'') else { return wrong("unclosed single quote") };
        line += found.matches('\n').count();
        let (behind, below) = first_line(behind);
        let behind = behind.trim_start_matches(BLANK);
        if !behind.is_empty() && !behind.starts_with('#') {
            return Err(format!(
                "invalid environment variable format at line {line}: unexpected content after closing quote"
            ));
        }
        if name == key {
            return Ok(Some(found.replace("\r\n", "\n")).filter(|v| !v.is_empty()));
        }
        rest = below;
    }
    Ok(None)
}

const BLANK: [char; 2] = [' ', '\t'];

/// The first line without its end, and what follows.
fn first_line(text: &str) -> (&str, &str) {
    let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
    (line.strip_suffix('\r').unwrap_or(line), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_single_quotes() {
        let text =
            "# first\n\n  A='1'\nB='two # no comment' # one\nC= 'x'\nD='a\nb\n'\nE=''\r\nF='$A \\n'\nA='2'\n";
        let get = |key: &str| value(text, key).unwrap();
        assert_eq!(get("A").as_deref(), Some("1"), "the first counts");
        assert_eq!(get("B").as_deref(), Some("two # no comment"));
        assert_eq!(get("D").as_deref(), Some("a\nb\n"));
        assert_eq!(get("F").as_deref(), Some("$A \\n"));
        for none in ["C", "E", "G"] {
            assert_eq!(get(none), None, "{none}");
        }
        assert_eq!(value("", "A"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, why) in [
            ("A='1'\nB\n", "line 2: missing '='"),
            ("='1'", "line 1: empty variable name"),
            ("A ='1'", "line 1: whitespace before '=' is not allowed"),
            ("A=1", "line 1: value must be enclosed in single quotes"),
            ("A=\n", "line 1: value must be enclosed in single quotes"),
            ("\nA='1\n2", "line 2: unclosed single quote"),
            ("A='1\n2'x", "line 2: unexpected content after closing quote"),
        ] {
            let told = value(text, "Z").unwrap_err();
            assert_eq!(told, format!("invalid environment variable format at {why}"), "{text:?}");
        }
        // What comes after the variable is not looked at.
        assert_eq!(value("A='1'\nB\n", "A").unwrap().as_deref(), Some("1"));
    }

    #[test]
    fn files_stay_in_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "A='secret'").unwrap();
        std::fs::write(volume.join("env"), "A='1'").unwrap();
        std::os::unix::fs::symlink("env", volume.join("link")).unwrap();
        std::os::unix::fs::symlink("../secret", volume.join("out")).unwrap();
        nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in ["env", "link", "./env"] {
            assert_eq!(read(&volume, path).unwrap(), "A='1'", "{path}");
        }
        for path in ["out", "../secret", "pipe", ".", "none"] {
            assert!(read(&volume, path).is_err(), "{path}");
        }
    }
}
