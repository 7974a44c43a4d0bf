//! Which metrics are shown, and with which label values: `--disabled-metrics`, `--allow-metric-labels`,
//! `--allow-metric-labels-manifest` and `--show-hidden-metrics-for-version`. Source: KEP-1209, KEP-2305.
//!
//! Upstream leaves disabled metrics out when they are made, and counts values that are not allowed under `unexpected`
//! from the start. Here the text is changed when it is asked for: series that have become the same are added up, which
//! gives the same numbers, and who sets no such flag pays nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// What label values that are not allowed are shown as.
const UNEXPECTED: &str = "unexpected";

/// The flags. `--show-hidden-metrics-for-version` is checked and has nothing to show: no metric of v1.36 that is here is
/// hidden.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MetricsFlags {
    /// Metrics that are not shown
    #[arg(long, value_name = "METRIC,...", value_delimiter = ',')]
    pub disabled_metrics: Vec<String>,
    /// The values that a label of a metric may have, others are shown as "unexpected":
    /// metric1,label1='v1,v2,v3'
    #[arg(long, value_name = "METRIC,LABEL=VALUE,...")]
    pub allow_metric_labels: Vec<String>,
    /// File with the same, as YAML: a map from "metric,label" to "v1,v2,v3"; it counts beside the flag
    #[arg(long, value_name = "FILE")]
    pub allow_metric_labels_manifest: Option<PathBuf>,
    /// The release before this one, to show metrics that this one hides
    #[arg(long, value_name = "VERSION", default_value = "")]
    pub show_hidden_metrics_for_version: String,
}

impl MetricsFlags {
    /// What the flags choose.
    ///
    /// # Errors
    /// A flag is malformed. A manifest that cannot be read is logged and has no effect, as upstream has it.
    pub fn choice(&self) -> anyhow::Result<Choice> {
        hidden_version(&self.show_hidden_metrics_for_version)?;
        let mut choice =
            Choice { disabled: self.disabled_metrics.iter().cloned().collect(), allowed: BTreeMap::new() };
        for value in &self.allow_metric_labels {
            for (key, values) in pairs(value).context("--allow-metric-labels")? {
                choice.allow(&key, &values).with_context(|| format!("--allow-metric-labels {value:?}"))?;
            }
        }
        if let Some(path) = &self.allow_metric_labels_manifest
            && let Err(e) = choice.allow_from(path)
        {
            tracing::error!(error = format!("{e:#}"), "--allow-metric-labels-manifest has no effect");
        }
        Ok(choice)
    }
}

/// Checks a value of `--show-hidden-metrics-for-version`.
///
/// # Errors
/// It is neither empty nor the minor release before this one.
pub fn hidden_version(version: &str) -> anyhow::Result<()> {
    let minor: u32 = crate::version::MINOR.parse().unwrap_or(0);
    let previous = format!("{}.{}", crate::version::MAJOR, minor.saturating_sub(1));
    ensure!(
        version.is_empty() || version == previous,
        "--show-hidden-metrics-for-version must be omitted or have the value '{previous}'. Only the previous minor version is allowed"
    );
    Ok(())
}

/// The pairs of a value of upstream's type `stringToString`: one `key=value`, or several in the form of a line of CSV.
fn pairs(value: &str) -> anyhow::Result<Vec<(String, String)>> {
    let parts = match value.matches('=').count() {
        0 => bail!("{value} must be formatted as key=value"),
        1 => vec![value.trim_matches('"').to_owned()],
        _ => fields(value),
    };
    let pair = |p: String| match p.split_once('=') {
        Some((k, v)) => Ok((k.to_owned(), v.to_owned())),
        None => bail!("{p} must be formatted as key=value"),
    };
    parts.into_iter().map(pair).collect()
}

/// The fields of a line of CSV. In a quoted one, two quotes mean one.
fn fields(line: &str) -> Vec<String> {
    let mut out = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let Some(field) = out.last_mut() else { break };
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            c => field.push(c),
        }
    }
    out
}

/// What is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    disabled: BTreeSet<String>,
    /// By metric and label.
    allowed: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Choice {
    /// Whether everything is shown as it is.
    pub fn is_everything(&self) -> bool {
        self.disabled.is_empty() && self.allowed.is_empty()
    }

    fn allow(&mut self, key: &str, values: &str) -> anyhow::Result<()> {
        let word = |w: &str, also: &str| {
            w.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || also.contains(c))
                && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || also.contains(c))
        };
        let parts = key.split_once(',').filter(|(metric, label)| word(metric, ":") && word(label, ""));
        let Some((metric, label)) = parts else {
            bail!(
                "must have a list of kv pair with format `metricName,labelName=labelValue, labelValue,...`"
            );
        };
        let values = values.split(',').map(str::to_owned).collect();
        self.allowed.entry(metric.to_owned()).or_default().insert(label.to_owned(), values);
        Ok(())
    }

    fn allow_from(&mut self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let map: BTreeMap<String, String> =
            serde_yaml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        for (key, values) in map {
            self.allow(&key, &values).with_context(|| format!("{key:?} in {}", path.display()))?;
        }
        Ok(())
    }

    /// The text without what is not shown.
    pub fn apply(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for family in families(text) {
            if self.disabled.contains(family.name) {
                continue;
            }
            match self.allowed.get(family.name) {
                Some(labels) => family.write(labels, &mut out),
                None => family.lines.iter().for_each(|l| {
                    out.push_str(l);
                    out.push('\n');
                }),
            }
        }
        out
    }
}

/// A metric in the text form.
struct Family<'a> {
    name: &'a str,
    kind: &'a str,
    lines: Vec<&'a str>,
}

fn families(text: &str) -> Vec<Family<'_>> {
    let mut out: Vec<Family<'_>> = Vec::new();
    for line in text.lines() {
        let about = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
        if let Some((name, rest)) = about.map(|a| a.split_once(' ').unwrap_or((a, ""))) {
            let kind = if line.starts_with("# TYPE ") { rest } else { "" };
            match out.last_mut().filter(|f| f.name == name) {
                Some(f) => {
                    f.kind = kind;
                    f.lines.push(line);
                }
                None => out.push(Family { name, kind, lines: vec![line] }),
            }
        } else if let Some(f) = out.last_mut() {
            f.lines.push(line);
        }
    }
    out
}

impl Family<'_> {
    /// Writes the series with the label values that are allowed; what has become the same is added up, or, where it is
    /// no count, the last of it is shown.
    fn write(&self, labels: &BTreeMap<String, BTreeSet<String>>, out: &mut String) {
        let mut order: Vec<(String, f64)> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        for line in &self.lines {
            if line.starts_with('#') {
                out.push_str(line);
                out.push('\n');
                continue;
            }
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let series = constrained(series, labels);
            match places.get(&series) {
                Some(&i) if self.kind == "gauge" || self.kind == "untyped" => order[i].1 = value,
                Some(&i) => order[i].1 += value,
                None => {
                    places.insert(series.clone(), order.len());
                    order.push((series, value));
                }
            }
        }
        for (series, value) in order {
            out.push_str(&format!("{series} {value}\n"));
        }
    }
}

/// `name{label="value",…}` with other values in place of those that are not allowed.
fn constrained(series: &str, labels: &BTreeMap<String, BTreeSet<String>>) -> String {
    let Some((name, mut rest)) = series.split_once('{') else { return series.to_owned() };
    let mut out = format!("{name}{{");
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = quoted_end(after);
        let (value, tail) = (&after[..end], after.get(end + 1..).unwrap_or_default());
        let allowed = labels.get(label).is_none_or(|values| values.contains(&unescaped(value)));
        out.push_str(&format!("{label}=\"{}\"", if allowed { value } else { UNEXPECTED }));
        let Some(more) = tail.strip_prefix(',') else { break };
        out.push(',');
        rest = more;
    }
    out.push('}');
    out
}

/// Where the quote is that ends the text.
fn quoted_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, b) in text.bytes().enumerate() {
        match b {
            b'"' if !escaped => return i,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

fn unescaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(c) => out.push(c),
                None => {}
            },
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP a_total A\n# TYPE a_total counter\na_total{verb=\"GET\",code=\"200\"} 1\n\
        a_total{verb=\"FOO\",code=\"200\"} 2\na_total{verb=\"BA\\\"R,=\",code=\"200\"} 3\n\
        # TYPE b gauge\nb{x=\"1\"} 5\nb{x=\"2\"} 6\n# TYPE h histogram\nh_bucket{x=\"q\",le=\"1\"} 1\n\
        h_bucket{x=\"r\",le=\"1\"} 4\nh_sum{x=\"q\"} 0.5\nh_sum{x=\"r\"} 1\n";

    fn choice(args: &[&str]) -> anyhow::Result<Choice> {
        #[derive(clap::Parser)]
        struct Own {
            #[command(flatten)]
            metrics: MetricsFlags,
        }
        let own = <Own as clap::Parser>::try_parse_from([&["x"], args].concat())?;
        own.metrics.choice()
    }

    #[test]
    fn disabled_metrics_are_not_shown() {
        let text = choice(&["--disabled-metrics=a_total,h"]).expect("a choice").apply(TEXT);
        assert_eq!(text, "# TYPE b gauge\nb{x=\"1\"} 5\nb{x=\"2\"} 6\n");
        let all = choice(&[]).expect("no choice");
        assert!(all.is_everything() && all.apply(TEXT) == TEXT);
    }

    #[test]
    fn other_label_values_are_one() {
        let c = choice(&[
            "--allow-metric-labels=\"a_total,verb=GET,LIST\",\"h,x=z\"",
            "--allow-metric-labels=b,x=2",
        ])
        .expect("a choice");
        let text = c.apply(TEXT);
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "a_total{verb=\"GET\",code=\"200\"} 1",
                "a_total{verb=\"unexpected\",code=\"200\"} 5",
                "b{x=\"unexpected\"} 5",
                "b{x=\"2\"} 6",
                "h_bucket{x=\"unexpected\",le=\"1\"} 5",
                "h_sum{x=\"unexpected\"} 1.5",
            ]
        );
    }

    #[test]
    fn manifests_are_read_and_bad_ones_are_passed_over() {
        let dir = std::env::temp_dir().join(format!("metrics-choice-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let good = dir.join("good");
        std::fs::write(&good, "a_total,verb: GET,FOO\n").expect("written");
        let flag = |p: &Path| format!("--allow-metric-labels-manifest={}", p.display());
        let read = choice(&[&flag(&good)]).expect("a choice");
        assert!(read.apply(TEXT).contains("a_total{verb=\"unexpected\",code=\"200\"} 3"));
        assert!(choice(&[&flag(&dir.join("none"))]).expect("passed over").is_everything());
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn malformed_flags_are_refused() {
        assert!(choice(&["--allow-metric-labels=a_total=GET"]).is_err(), "no label");
        assert!(choice(&["--allow-metric-labels=a_total,verb"]).is_err(), "no values");
        assert!(choice(&["--show-hidden-metrics-for-version=1.35"]).is_ok());
        let e = choice(&["--show-hidden-metrics-for-version=1.34"]).expect_err("too old").to_string();
        assert!(e.contains("must be omitted or have the value '1.35'"), "{e}");
    }
}
