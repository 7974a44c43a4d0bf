//! Container logs in CRI format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`. Parsing and selection are pure.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// What a client asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub since: Option<Timestamp>,
    pub tail: Option<usize>,
    pub limit_bytes: Option<usize>,
    /// Only this stream (`Stdout` or `Stderr`), both if `None`.
    pub stream: Option<Stream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// One line of a log file.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<'a> {
    pub time: Timestamp,
    pub time_text: &'a str,
    pub stream: Stream,
    /// The text goes on in the next line.
    pub partial: bool,
    pub text: &'a [u8],
}

impl Options {
    /// Reads the query parameters of `containerLogs`.
    pub fn parse(query: &[(String, String)]) -> Result<Self, String> {
        let mut o = Self::default();
        let number = |k: &str, v: &str| v.parse::<i64>().map_err(|_| format!("invalid value {v:?} for {k}"));
        for (k, v) in query {
            let flag = || v == "true" || v == "1";
            match k.as_str() {
                "follow" => o.follow = flag(),
                "previous" => o.previous = flag(),
                "timestamps" => o.timestamps = flag(),
                "tailLines" => {
                    let n = number(k, v)?;
                    o.tail = Some(
                        usize::try_from(n)
                            .map_err(|_| "tailLines must be greater than or equal to 0".to_owned())?,
                    );
                }
                "limitBytes" => {
                    let n = number(k, v)?;
                    if n < 1 {
                        return Err("limitBytes must be greater than 0".into());
                    }
                    o.limit_bytes = Some(n as usize);
                }
                "sinceSeconds" => {
                    let n = number(k, v)?;
                    if n < 1 {
                        return Err("sinceSeconds must be greater than 0".into());
                    }
                    o.since = Some(Timestamp::now() - std::time::Duration::from_secs(n as u64));
                }
                "sinceTime" => {
                    o.since = Some(v.parse().map_err(|_| format!("invalid value {v:?} for sinceTime"))?);
                }
                "stream" => {
                    o.stream = match v.as_str() {
                        "Stdout" => Some(Stream::Stdout),
                        "Stderr" => Some(Stream::Stderr),
                        "All" | "" => None,
                        other => return Err(format!("invalid value {other:?} for stream")),
                    }
                }
                _ => {}
            }
        }
        Ok(o)
    }
}

/// Parses a line without its newline.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time_text = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tag = fields.next()?;
    let text = fields.next().unwrap_or_default();
    Some(Line { time: time_text.parse().ok()?, time_text, stream, partial: tag.starts_with(b"P"), text })
}

/// Turns log lines into what the client gets; remembers whether it is in the middle of a split line.
#[derive(Default)]
pub struct Formatter {
    options: Options,
    written: usize,
    continued: bool,
}

impl Formatter {
    pub fn new(options: Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// True when the byte limit is reached.
    pub fn full(&self) -> bool {
        self.options.limit_bytes.is_some_and(|l| self.written >= l)
    }

    /// Appends one log line, if it is wanted.
    pub fn push(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(raw) else { return };
        let wanted = self.options.since.is_none_or(|s| line.time >= s)
            && self.options.stream.is_none_or(|s| s == line.stream);
        if !wanted {
            return;
        }
        let begin = out.len();
        if self.options.timestamps && !self.continued {
            out.extend_from_slice(line.time_text.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.continued = line.partial;
        let room = self.options.limit_bytes.map_or(usize::MAX, |l| l - self.written.min(l));
        out.truncate(begin + (out.len() - begin).min(room));
        self.written += out.len() - begin;
    }
}

/// Where the last `lines` lines of a file begin.
pub fn tail_offset(file: &mut File, lines: usize) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let mut at = end;
    let mut found = 0;
    let mut block = vec![0u8; 8192];
    while at > 0 {
        let size = (at.min(block.len() as u64)) as usize;
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block[..size])?;
        for i in (0..size).rev() {
            let position = at + i as u64;
            // The newline that ends the file begins no line.
            if block[i] == b'\n' && position + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(position + 1);
                }
            }
        }
    }
    Ok(0)
}

/// The end of a log as text, for termination messages.
pub fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let from = tail_offset(&mut file, lines)?;
        file.seek(SeekFrom::Start(from))?;
        let mut raw = Vec::new();
        file.read_to_end(&mut raw)?;
        let mut formatter = Formatter::default();
        let mut out = Vec::new();
        raw.split(|b| *b == b'\n').for_each(|l| formatter.push(l, &mut out));
        let skip = out.len().saturating_sub(bytes);
        Ok(String::from_utf8_lossy(&out[skip..]).into_owned())
    };
    read().unwrap_or_default()
}

/// Removes a log and the files it was rotated into.
pub fn remove_with_rotations(path: &Path) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().map(|n| n.to_string_lossy().into_owned()))
    else {
        return;
    };
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    let doomed: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            p.file_name().is_some_and(|n| {
                let n = n.to_string_lossy();
                n == name || n.starts_with(&format!("{name}."))
            })
        })
        .collect();
    for file in doomed {
        // One that vanished meanwhile is as good as removed.
        let _ = std::fs::remove_file(file);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LOG: &str = "2024-01-01T00:00:01.5Z stdout F one\n2024-01-01T00:00:02Z stderr P tw\n2024-01-01T00:00:02.1Z stderr F o\n2024-01-01T00:00:03Z stdout F three\n";

    fn format(o: Options) -> String {
        let mut f = Formatter::new(o);
        let mut out = Vec::new();
        LOG.as_bytes().split(|b| *b == b'\n').for_each(|l| f.push(l, &mut out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn selects_and_joins() {
        assert_eq!(format(Options::default()), "one\ntwo\nthree\n");
        assert_eq!(format(Options { limit_bytes: Some(5), ..Default::default() }), "one\nt");
        let since = Some("2024-01-01T00:00:03Z".parse().unwrap());
        assert_eq!(format(Options { since, ..Default::default() }), "three\n");
        assert_eq!(
            format(Options { stream: Some(Stream::Stderr), timestamps: true, ..Default::default() }),
            "2024-01-01T00:00:02Z two\n"
        );
    }

    #[test]
    fn tails() {
        let path = std::env::temp_dir().join(format!("kubelet-log-{}", std::process::id()));
        File::create(&path).unwrap().write_all(LOG.as_bytes()).unwrap();
        let mut f = File::open(&path).unwrap();
        assert_eq!(tail_offset(&mut f, 0).unwrap(), LOG.len() as u64);
        let at = tail_offset(&mut f, 1).unwrap() as usize;
        assert!(LOG[at..].ends_with("three\n") && LOG[at..].starts_with("2024-01-01T00:00:03Z"));
        assert_eq!(tail_offset(&mut f, 99).unwrap(), 0);
        assert_eq!(tail_text(&path, 80, 6), "three\n");
        remove_with_rotations(&path);
        assert!(!path.exists());
    }

    #[test]
    fn bad_options() {
        let q = |k: &str, v: &str| Options::parse(&[(k.to_owned(), v.to_owned())]);
        assert!(q("tailLines", "-1").is_err());
        assert!(q("limitBytes", "0").is_err());
        assert!(q("sinceTime", "yesterday").is_err());
        assert_eq!(q("tailLines", "3").unwrap().tail, Some(3));
    }
}
