//! Events as lines of a file or of the standard output.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::event::Event;
use super::rotate::{Limits, Rotating};

/// `--audit-log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    Legacy,
}

enum Out {
    Stdout,
    File(Mutex<Rotating>),
}

/// The log.
pub struct Log {
    format: Format,
    out: Out,
}

impl Log {
    /// `path`: `-` is the standard output.
    pub fn open(path: &str, format: Format, limits: Limits) -> io::Result<Self> {
        let out = match path {
            "-" => Out::Stdout,
            p => Out::File(Mutex::new(Rotating::open(Path::new(p), limits)?)),
        };
        Ok(Self { format, out })
    }

    /// Writes events, each at once: a line is whole or not there.
    pub fn write(&self, events: &[Arc<Event>]) -> io::Result<()> {
        for e in events {
            let mut line = match self.format {
                Format::Json => e.to_json(),
                Format::Legacy => e.to_legacy().into_bytes(),
            };
            line.push(b'\n');
            match &self.out {
                Out::Stdout => io::stdout().lock().write_all(&line)?,
                Out::File(f) => f.lock().write(&line)?,
            }
        }
        Ok(())
    }
}
