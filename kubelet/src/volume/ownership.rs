//! `fsGroup`: makes a volume's files belong to the pod's group.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

/// Gives everything below `root` to `gid`; with `only_on_mismatch`, nothing is done if the root fits already.
pub fn set_group(root: &Path, gid: u32, read_only: bool, only_on_mismatch: bool) -> io::Result<()> {
    let wanted = mask(true, read_only);
    if only_on_mismatch {
        let meta = fs::metadata(root)?;
        if meta.gid() == gid && meta.mode() & wanted == wanted && meta.mode() & 0o2000 != 0 {
            return Ok(());
        }
    }
    apply(root, gid, read_only)
}

fn mask(dir: bool, read_only: bool) -> u32 {
    let base = if read_only { 0o440 } else { 0o660 };
    if dir { base | 0o2110 } else { base }
}

fn apply(path: &Path, gid: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    lchown(path, None, Some(gid))?;
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mode = meta.mode() & 0o7777 | mask(meta.is_dir(), read_only);
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            apply(&entry?.path(), gid, read_only)?;
        }
    }
    Ok(())
}
