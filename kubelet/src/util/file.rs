//! Small files that hold state: read if they are there, written whole or not at all.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// The text of the file; none if there is no such file.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a new file in the place of the old one, which stays as it was until then. `durable`: after a power cut, too.
pub fn replace(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    let part = path.with_extension("part");
    let mut file = fs::File::create(&part)?;
    file.write_all(content)?;
    if durable {
        file.sync_all()?;
    }
    fs::rename(&part, path)?;
    match path.parent() {
        Some(dir) if durable => fs::File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}
