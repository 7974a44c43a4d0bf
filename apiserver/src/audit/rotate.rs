//! A log file that is cut at a size: the old one gets the time in its name, may be compressed, and goes when it is too
//! old or too many are there. Names are those that upstream's library gives, so that both rotate the same files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time in the name of an old file.
const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// How much is kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Bytes of one file; zero for no bound.
    pub size: u64,
    /// Old files kept; zero for all.
    pub backups: usize,
    /// Days after which old files go; zero for never.
    pub days: u64,
    pub compress: bool,
}

/// The open file.
#[derive(Debug)]
pub struct Rotating {
    path: PathBuf,
    limits: Limits,
    file: Option<File>,
    size: u64,
}

impl Rotating {
    /// Opens or creates the file; folders are made.
    pub fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut r = Self { path: path.to_owned(), limits, file: None, size: 0 };
        r.reopen()?;
        Ok(r)
    }

    fn reopen(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Appends; whole records only, so that none is cut by a rotation.
    pub fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let size = record.len() as u64;
        if self.limits.size > 0 && self.size > 0 && self.size + size > self.limits.size {
            self.rotate(jiff::Timestamp::now())?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        let Some(f) = &mut self.file else { return Err(io::Error::other("the log file is not open")) };
        f.write_all(record)?;
        self.size += size;
        Ok(())
    }

    /// Begins a new file.
    pub fn rotate(&mut self, now: jiff::Timestamp) -> io::Result<()> {
        self.file = None;
        let (stem, ext) = self.name();
        let old = self.folder().join(format!("{stem}-{}{ext}", now.strftime(TIME)));
        fs::rename(&self.path, &old)?;
        self.reopen()?;
        let (limits, folder) = (self.limits, self.folder().to_owned());
        // Compressing takes long: not while requests wait for the log.
        std::thread::Builder::new().name("audit-rotate".into()).spawn(move || {
            if let Err(e) = tidy(&folder, &stem, &ext, limits, now) {
                tracing::warn!(folder = %folder.display(), error = %e, "old audit logs cannot be tidied up");
            }
        })?;
        Ok(())
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        }
    }

    fn name(&self) -> (String, String) {
        let text = |s: Option<&std::ffi::OsStr>| s.map(|s| s.to_string_lossy().into_owned());
        let ext = text(self.path.extension()).map_or_else(String::new, |e| format!(".{e}"));
        (text(self.path.file_stem()).unwrap_or_default(), ext)
    }
}

/// Removes what is too old or too much, and compresses the rest.
pub fn tidy(folder: &Path, stem: &str, ext: &str, limits: Limits, now: jiff::Timestamp) -> io::Result<()> {
    let mut old: Vec<(jiff::Timestamp, PathBuf, bool)> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let packed = name.ends_with(".gz");
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time =
            plain.strip_prefix(stem).and_then(|r| r.strip_prefix('-')).and_then(|r| r.strip_suffix(ext));
        let Some(time) = time else { continue };
        let parsed = jiff::civil::DateTime::strptime(TIME, time).ok();
        if let Some(t) = parsed.and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC).ok()) {
            old.push((t.timestamp(), path, packed));
        }
    }
    old.sort_by_key(|o| std::cmp::Reverse(o.0));
    let oldest =
        (limits.days > 0).then(|| now.checked_sub(Duration::from_secs(limits.days * 86_400)).ok()).flatten();
    for (i, (time, path, packed)) in old.iter().enumerate() {
        let surplus = limits.backups > 0 && i >= limits.backups;
        if surplus || oldest.is_some_and(|o| *time < o) {
            fs::remove_file(path)?;
        } else if limits.compress && !packed {
            compress(path)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    let target = PathBuf::from(name);
    let out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&target)?;
    let mut z = flate2::write::GzEncoder::new(out, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut z)?;
    z.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_packs_and_forgets() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("audit.log");
        let limits = Limits { size: 100, backups: 2, days: 1, compress: true };
        let mut r = Rotating::open(&path, limits).expect("a file");
        r.write(&[b'a'; 60]).expect("written");
        r.write(&[b'b'; 60]).expect("written");
        assert_eq!(fs::read(&path).expect("the new file"), [b'b'; 60]);
        let now = jiff::Timestamp::now();
        for (i, hours) in [30, 3, 2, 1].iter().enumerate() {
            let t = now - Duration::from_secs(hours * 3600);
            let name = dir.path().join(format!("audit-{}.log", t.strftime(TIME)));
            fs::write(name, format!("{i}")).expect("written");
        }
        fs::write(dir.path().join("audit-policy.log"), "no rotated file").expect("written");
        // Whatever the background did, doing it again ends the same.
        std::thread::sleep(Duration::from_millis(200));
        tidy(dir.path(), "audit", ".log", limits, now).expect("tidy");
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .expect("a folder")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names.iter().filter(|n| n.ends_with(".log.gz")).count(), 2, "{names:?}");
        assert!(names.contains(&"audit-policy.log".to_owned()) && names.contains(&"audit.log".to_owned()));
        assert_eq!(names.len(), 4, "{names:?}");
    }
}
