//! `hostPath` volumes: checks (or creates) what is there by the volume's type.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// Checks the path against the type; creates it for the `…OrCreate` types.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let meta = fs::metadata(path);
    let is = |test: fn(&fs::FileType) -> bool| meta.as_ref().is_ok_and(|m| test(&m.file_type()));
    let want = |ok: bool, what: &str| {
        if ok { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not a {what}")) }
    };
    let made = |r: io::Result<()>| r.map_err(|e| format!("creating hostPath {shown}: {e}"));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if meta.is_err() {
                made(
                    fs::create_dir_all(path)
                        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))),
                )?;
                return Ok(());
            }
            want(is(fs::FileType::is_dir), "directory")
        }
        "FileOrCreate" => {
            if meta.is_err() {
                made(fs::OpenOptions::new().create(true).append(true).open(path).map(drop))?;
                return Ok(());
            }
            want(is(fs::FileType::is_file), "file")
        }
        "Directory" => want(is(fs::FileType::is_dir), "directory"),
        "File" => want(is(fs::FileType::is_file), "file"),
        "Socket" => want(is(FileTypeExt::is_socket), "socket file"),
        "CharDevice" => want(is(FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => want(is(FileTypeExt::is_block_device), "block device"),
        other => Err(format!("{other} is an invalid hostPath type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        check(Path::new("/etc"), "Directory").unwrap();
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        check(Path::new("/nope"), "").unwrap();
        assert!(check(Path::new("/etc"), "File").unwrap_err().contains("/etc is not a file"));
        assert!(check(Path::new("/nope"), "Directory").is_err());
        assert!(check(Path::new("/etc"), "Weird").is_err());
    }
}
