//! Command-line flags that upstream's daemons have and ours take without effect.
//!
//! A unit file written for upstream's daemon must start ours unchanged, and its reader must learn what does not
//! apply: each such flag is checked against its type, appears in `--help` with the reason, and is named in the log
//! when it is given. What no daemon of upstream's knows stays an error.
//!
//! A daemon lists them in a text of sections: a line `# reason`, then `name type [default]` lines. In sections that
//! begin with `! reason` flags are refused instead: ignoring them would leave somebody less protected than they think.
//! A flag that the daemon itself defines wins over an entry of the same name.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::builder::{StyledStr, ValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::duration::GoDuration;

/// A flag without effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inert {
    /// Name without dashes.
    pub name: &'static str,
    /// Upstream's type of the value, as its `--help` shows it.
    pub kind: &'static str,
    /// Default as upstream prints it; empty for the type's zero.
    pub default: &'static str,
    /// Why it has no effect here.
    pub why: &'static str,
    /// Giving it is an error.
    pub refused: bool,
}

/// A flag without effect that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// The flag.
    pub flag: Inert,
    /// What it was set to.
    pub value: String,
}

/// The entries of a list (see the module).
pub fn inert(list: &'static str) -> impl Iterator<Item = Inert> {
    let (mut why, mut refused) = ("", false);
    list.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(reason) = line.strip_prefix(['#', '!']) {
            (why, refused) = (reason.trim(), line.starts_with('!'));
            return None;
        }
        let mut words = line.splitn(3, ' ');
        let (name, kind) = (words.next().filter(|n| !n.is_empty())?, words.next()?);
        Some(Inert { name, kind, default: words.next().unwrap_or_default(), why, refused })
    })
}

/// The process's flags, and those of `list` that were given. Ends the process with a message on bad ones, and after
/// `--help` and `--version`.
pub fn parse<F: CommandFactory + FromArgMatches>(list: &'static str) -> (F, Vec<Unused>) {
    try_parse_from(list, std::env::args_os()).unwrap_or_else(|e| e.exit())
}

/// As [`parse`], from given arguments, of which the first is the program.
///
/// # Errors
/// What is wrong with the arguments, or the text that they ask for.
pub fn try_parse_from<F: CommandFactory + FromArgMatches>(
    list: &'static str,
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<(F, Vec<Unused>), clap::Error> {
    let (flags, unused, _) = try_matches_from(list, args)?;
    Ok((flags, unused))
}

/// As [`parse`], and what clap made of every argument.
pub fn matches<F: CommandFactory + FromArgMatches>(list: &'static str) -> (F, Vec<Unused>, ArgMatches) {
    try_matches_from(list, std::env::args_os()).unwrap_or_else(|e| e.exit())
}

fn try_matches_from<F: CommandFactory + FromArgMatches>(
    list: &'static str,
    args: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<(F, Vec<Unused>, ArgMatches), clap::Error> {
    let command = command::<F>(list);
    let own: Vec<String> = own_names(&F::command());
    let matches = command.try_get_matches_from(args.into_iter().map(|a| dashed(a.into())))?;
    let flags = F::from_arg_matches(&matches)?;
    let unused: Vec<Unused> = inert(list)
        .filter(|f| !own.iter().any(|n| n == f.name))
        .filter_map(|f| given(&matches, f).map(|value| Unused { flag: f, value }))
        .collect();
    let asks =
        |u: &Unused| !matches!(u.value.as_str(), "" | "false") && u.value != u.flag.default.trim_matches('"');
    if let Some(u) = unused.iter().find(|u| u.flag.refused && asks(u)) {
        let message = format!("--{} is not available here: {}\n", u.flag.name, u.flag.why);
        return Err(clap::Error::raw(clap::error::ErrorKind::InvalidValue, message));
    }
    Ok((flags, unused, matches))
}

/// The daemon's command line with the entries of `list` added. As upstream's, a flag may be repeated, and the last
/// one counts.
pub fn command<F: CommandFactory>(list: &'static str) -> Command {
    let command = F::command().args_override_self(true);
    let own = own_names(&command);
    command.args(inert(list).filter(|f| !own.iter().any(|n| n == f.name)).map(arg))
}

fn own_names(command: &Command) -> Vec<String> {
    command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)).collect()
}

fn arg(f: Inert) -> Arg {
    let what = if f.refused { "Not available here" } else { "No effect here" };
    let help = StyledStr::from(format!("{what}: {}", f.why));
    let arg = Arg::new(f.name).long(f.name).help(help).value_name(f.kind.to_owned());
    let arg = arg.value_parser(parser(f.kind)).allow_hyphen_values(true);
    let arg = if is_list(f.kind) { arg.action(ArgAction::Append) } else { arg.action(ArgAction::Set) };
    if f.kind == "bool" {
        arg.num_args(0..=1).require_equals(true).default_missing_value("true")
    } else {
        arg
    }
}

/// Types whose flags add up when repeated.
fn is_list(kind: &str) -> bool {
    matches!(kind, "strings" | "stringArray" | "int32Slice" | "namedCertKey")
        || kind.starts_with("map")
        || kind.starts_with("colonSeparated")
        || kind.starts_with("stringTo")
        || kind == "reserved-memory"
}

/// Checks a value of upstream's type; what is passed on is its text.
fn parser(kind: &'static str) -> ValueParser {
    ValueParser::from(move |text: &str| -> Result<String, String> {
        let bad = |e: String| format!("{text:?} is not of type {kind}: {e}");
        match kind {
            "bool" => {
                // What Go's strconv.ParseBool takes.
                let known = ["1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"];
                if !known.contains(&text) {
                    return Err(bad("want true or false".to_owned()));
                }
            }
            "int" => drop(text.parse::<i64>().map_err(|e| bad(e.to_string()))?),
            "int32" => drop(text.parse::<i32>().map_err(|e| bad(e.to_string()))?),
            "float" | "float32" => drop(text.parse::<f64>().map_err(|e| bad(e.to_string()))?),
            "duration" => {
                let positive = text.strip_prefix('-').unwrap_or(text);
                positive.parse::<GoDuration>()?;
            }
            "ip" => drop(text.parse::<IpAddr>().map_err(|e| bad(e.to_string()))?),
            "int32Slice" => {
                for part in text.split(',').filter(|p| !p.is_empty()) {
                    part.trim().parse::<i32>().map_err(|e| bad(e.to_string()))?;
                }
            }
            "quantity" => drop(proto::quantity::canonical(text).map_err(|e| bad(e.to_string()))?),
            "mapStringBool" | "mapStringString" | "stringToString" => {
                for part in text.split(',').filter(|p| !p.is_empty()) {
                    let Some((_, value)) = part.split_once('=') else {
                        return Err(bad(format!("{part:?} is not NAME=VALUE")));
                    };
                    if kind == "mapStringBool" && value.trim().parse::<bool>().is_err() {
                        return Err(bad(format!("the value of {part:?} is not a boolean")));
                    }
                }
            }
            _ => {}
        }
        Ok(text.to_owned())
    })
}

fn given(matches: &ArgMatches, f: Inert) -> Option<String> {
    if matches.value_source(f.name) != Some(ValueSource::CommandLine) {
        return None;
    }
    let values: Vec<&str> =
        matches.get_many::<String>(f.name).into_iter().flatten().map(String::as_str).collect();
    Some(values.join(","))
}

/// `--some_flag` is `--some-flag`, as upstream has it; the value stays as it is.
fn dashed(arg: OsString) -> OsString {
    let Some(text) = arg.to_str().filter(|t| t.starts_with("--")) else { return arg };
    match text.split_once('=') {
        Some((name, value)) if name.contains('_') => format!("{}={value}", name.replace('_', "-")).into(),
        None if text.contains('_') => text.replace('_', "-").into(),
        _ => arg,
    }
}

/// Says in the log, a line for each, which of the given flags have no effect, and why.
pub fn warn(unused: &[Unused]) {
    for u in unused {
        tracing::warn!(flag = u.flag.name, value = u.value, reason = u.flag.why, "flag has no effect");
    }
}

/// Checks of a daemon's command line against upstream's, for its tests.
pub mod facts {
    use std::collections::BTreeMap;

    use super::{Arg, CommandFactory, GoDuration, command};

    const FACTS: &str = include_str!("../data/flags-v1.36.json");

    /// One flag of upstream's.
    #[derive(serde::Deserialize)]
    struct Fact {
        #[serde(rename = "type", default)]
        kind: String,
        #[serde(default)]
        default: String,
    }

    /// How `F` with the flags of `list` differs from upstream's `daemon`: flags that are not there, and other
    /// defaults. `known` are names whose default differs on purpose.
    pub fn differences<F: CommandFactory>(daemon: &str, list: &'static str, known: &[&str]) -> Vec<String> {
        let mut all: BTreeMap<String, BTreeMap<String, Fact>> = match serde_json::from_str(FACTS) {
            Ok(all) => all,
            Err(e) => return vec![format!("the facts do not parse: {e}")],
        };
        let ours = command::<F>(list);
        let wanted = all.remove(daemon).unwrap_or_default();
        let mut out: Vec<String> = Vec::new();
        if wanted.is_empty() {
            out.push(format!("the facts name no flags of {daemon}"));
        }
        for (name, fact) in wanted.iter().filter(|(n, _)| !matches!(n.as_str(), "help" | "version")) {
            match ours.get_arguments().find(|a| a.get_long() == Some(name)).map(|a| default_of(a, list, name))
            {
                None => out.push(format!("--{name} is not there")),
                // Where our flag has no default, the default is that of a configuration.
                Some(None) => {}
                Some(_) if known.contains(&name.as_str()) => {}
                Some(Some(ours)) => {
                    let (ours, theirs) = (plain(&ours, &fact.kind), plain(&fact.default, &fact.kind));
                    if ours != theirs {
                        out.push(format!("--{name}: the default is {ours:?}, upstream's {theirs:?}"));
                    }
                }
            }
        }
        for f in super::inert(list).filter(|f| wanted.get(f.name).is_none_or(|w| w.kind != f.kind)) {
            out.push(format!("--{} of type {} is not upstream's", f.name, f.kind));
        }
        out
    }

    fn default_of(arg: &Arg, list: &'static str, name: &str) -> Option<String> {
        if let Some(f) = super::inert(list).find(|f| f.name == name && arg.get_id().as_str() == f.name) {
            return Some(f.default.to_owned());
        }
        let own = arg.get_default_values();
        let own: Vec<String> = own.iter().map(|v| v.to_string_lossy().into_owned()).collect();
        (!own.is_empty()).then(|| own.join(","))
    }

    /// Without the quotes and brackets that upstream's `--help` puts around values, durations in seconds, zeros empty.
    fn plain(value: &str, kind: &str) -> String {
        let v = value.trim_matches('"');
        let v = v.strip_prefix('[').and_then(|v| v.strip_suffix(']')).unwrap_or(v);
        match kind {
            "duration" => match v.parse::<GoDuration>() {
                Ok(d) if d.0.is_zero() => String::new(),
                Ok(d) => format!("{}s", d.0.as_secs_f64()),
                Err(_) => v.to_owned(),
            },
            "bool" if v == "false" => String::new(),
            "int" | "int32" | "float" | "float32" | "Level" if v == "0" => String::new(),
            _ => v.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
# There is nothing to tune.
kube-api-qps float32 20
profiling bool true
# Clouds are elsewhere.
cloud-config string
wait duration 5s
! Secrets would be readable.
encrypt string
";

    #[derive(Debug, clap::Parser)]
    struct Own {
        #[arg(long, default_value_t = 3)]
        some_number: u8,
        #[arg(long)]
        wait: Option<String>,
    }

    fn parse(args: &[&str]) -> Result<(Own, Vec<String>), String> {
        let args = ["x"].iter().chain(args).map(|a| (*a).to_owned());
        let (own, unused) = try_parse_from::<Own>(LIST, args).map_err(|e| e.to_string())?;
        Ok((own, unused.iter().map(|u| format!("{}={}: {}", u.flag.name, u.value, u.flag.why)).collect()))
    }

    #[test]
    fn flags_without_effect_are_taken_and_named() {
        let (own, unused) = parse(&[
            "--kube_api_qps",
            "50",
            "--profiling",
            "--some_number=4",
            "--cloud-config=a_b",
            "--wait=x",
        ])
        .expect("parses");
        assert_eq!((own.some_number, own.wait.as_deref()), (4, Some("x")));
        assert_eq!(
            unused,
            [
                "kube-api-qps=50: There is nothing to tune.",
                "profiling=true: There is nothing to tune.",
                "cloud-config=a_b: Clouds are elsewhere."
            ]
        );
        assert_eq!(parse(&["--some-number=1", "--some-number=2"]).expect("the last counts").0.some_number, 2);
        assert_eq!(parse(&[]).expect("parses").1, [""; 0]);
    }

    #[test]
    fn values_of_other_types_are_refused() {
        assert!(parse(&["--kube-api-qps=many"]).expect_err("no number").contains("float32"));
        assert!(parse(&["--profiling=maybe"]).is_err());
        assert!(parse(&["--no-such-flag=1"]).is_err());
        assert!(parse(&["--cloud-config"]).is_err());
        let refused = parse(&["--encrypt=file"]).expect_err("refused");
        assert_eq!(refused, "error: --encrypt is not available here: Secrets would be readable.\n");
        assert!(parse(&["--encrypt="]).is_ok());
    }
}
