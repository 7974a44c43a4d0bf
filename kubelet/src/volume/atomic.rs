//! Writes a volume's files so that readers see either all old or all new ones, in upstream's layout: the data
//! in a time-stamped folder, `..data` linking to it, and one link per top-level name through `..data`.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

use jiff::Timestamp;

use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Brings `target` to hold `payload`; returns whether anything changed. `group` is the pod's fsGroup.
pub fn write(target: &Path, payload: &Payload, group: Option<u32>, now: Timestamp) -> io::Result<bool> {
    let link = target.join(DATA);
    let old = fs::read_link(&link).ok();
    if let Some(old) = &old
        && same(&target.join(old), payload)?
    {
        // A crash between swap and links leaves links missing.
        visible_links(target, payload)?;
        return Ok(false);
    }
    let stamp = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let dir = target.join(&stamp);
    fs::create_dir(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    let mut dirs = vec![dir.clone()];
    for (path, file) in payload {
        let full = dir.join(path);
        if let Some(parent) = full.parent()
            && !parent.exists()
        {
            fs::create_dir_all(parent)?;
            dirs.push(parent.to_path_buf());
        }
        fs::write(&full, &file.data)?;
        if file.owner.is_some() || group.is_some() {
            chown(&full, file.owner, group)?;
        }
        // The group of fsGroup reads what the owner reads.
        let mode = if group.is_some() { file.mode | (file.mode & 0o400) >> 3 } else { file.mode };
        fs::set_permissions(&full, fs::Permissions::from_mode(mode))?;
    }
    if let Some(gid) = group {
        for d in dirs {
            chown(&d, None, Some(gid))?;
            fs::set_permissions(&d, fs::Permissions::from_mode(0o2775))?;
        }
    }
    let new_link = target.join(DATA_NEW);
    if fs::symlink_metadata(&new_link).is_ok() {
        fs::remove_file(&new_link)?;
    }
    symlink(&stamp, &new_link)?;
    fs::rename(&new_link, &link)?;
    visible_links(target, payload)?;
    if let Some(old) = old {
        let _ = fs::remove_dir_all(target.join(old));
    }
    Ok(true)
}

fn top(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

fn visible_links(target: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().map(|p| top(p)).collect();
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    for name in wanted {
        let link = target.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut stack = vec![dir.to_path_buf()];
    while let Some(d) = stack.pop() {
        let entries = match fs::read_dir(&d) {
            Ok(e) => e,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                stack.push(entry.path());
                continue;
            }
            let path = entry.path();
            let Ok(relative) = path.strip_prefix(dir) else { return Ok(false) };
            match payload.get(relative.to_string_lossy().as_ref()) {
                Some(file) if fs::read(&path)? == file.data => found += 1,
                _ => return Ok(false),
            }
        }
    }
    Ok(found == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::payload::File;

    fn payload(items: &[(&str, &str)]) -> Payload {
        items
            .iter()
            .map(|(p, d)| ((*p).to_owned(), File { data: d.as_bytes().to_vec(), mode: 0o640, owner: None }))
            .collect()
    }

    #[test]
    fn swaps_whole_payloads() {
        let dir = std::env::temp_dir().join(format!("kubelet-atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let at = |s| Timestamp::from_second(s).unwrap();
        assert!(write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None, at(1)).unwrap());
        assert!(!write(&dir, &payload(&[("a", "1"), ("d/b", "2")]), None, at(2)).unwrap());
        assert_eq!(fs::read_to_string(dir.join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(dir.join("d")).unwrap(), Path::new("..data/d"));
        assert_eq!(fs::metadata(dir.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert!(write(&dir, &payload(&[("c", "3")]), None, at(3)).unwrap());
        assert!(fs::symlink_metadata(dir.join("a")).is_err());
        assert_eq!(fs::read_to_string(dir.join("c")).unwrap(), "3");
        let stamped = fs::read_dir(&dir).unwrap().filter(|e| {
            let n = e.as_ref().unwrap().file_name();
            n.to_string_lossy().starts_with("..1970")
        });
        assert_eq!(stamped.count(), 1, "the old folder is gone");
        fs::remove_dir_all(&dir).unwrap();
    }
}
