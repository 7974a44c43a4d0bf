//! The few mount system calls the kubelet needs.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn context(e: nix::Error, doing: String) -> io::Error {
    io::Error::other(format!("{doing}: {e}"))
}

/// Mount points at or below `root`, deepest first.
pub fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<PathBuf> = table
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(root))
        .collect();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(found)
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(below(path)?.iter().any(|p| p == path))
}

pub fn tmpfs(target: &Path, size: Option<i64>) -> io::Result<()> {
    let options = size.filter(|s| *s > 0).map(|s| format!("size={s}"));
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), options.as_deref())
        .map_err(|e| context(e, format!("mounting tmpfs on {}", target.display())))
}

pub fn hugetlbfs(target: &Path, page_size: &str) -> io::Result<()> {
    let options = (!page_size.is_empty()).then(|| format!("pagesize={page_size}"));
    mount(Some("nodev"), target, Some("hugetlbfs"), MsFlags::empty(), options.as_deref())
        .map_err(|e| context(e, format!("mounting hugetlbfs on {}", target.display())))
}

pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(|e| context(e, format!("bind-mounting onto {}", target.display())))
}

/// Options of a bind mount, as flags.
///
/// # Errors
/// An option that a bind mount does not have.
pub fn bind_flags(options: &[String]) -> Result<MsFlags, String> {
    let mut flags = MsFlags::empty();
    for option in options.iter().flat_map(|o| o.split(',')).map(str::trim).filter(|o| !o.is_empty()) {
        flags |= match option {
            "rw" | "bind" | "defaults" => MsFlags::empty(),
            "ro" => MsFlags::MS_RDONLY,
            "noexec" => MsFlags::MS_NOEXEC,
            "nosuid" => MsFlags::MS_NOSUID,
            "nodev" => MsFlags::MS_NODEV,
            "noatime" => MsFlags::MS_NOATIME,
            "nodiratime" => MsFlags::MS_NODIRATIME,
            "relatime" => MsFlags::MS_RELATIME,
            "strictatime" => MsFlags::MS_STRICTATIME,
            other => return Err(format!("mount option {other:?} is not one of a bind mount")),
        };
    }
    Ok(flags)
}

/// Changes the options of a bind mount, which the kernel does not take when it is made.
pub fn remount(target: &Path, flags: MsFlags) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | flags;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|e| context(e, format!("setting mount options of {}", target.display())))
}

/// Makes mounts below `root` reach containers that ask for that (`mountPropagation`), and those made in them the host:
/// the mount that `root` is on must be shared. Where it is not, `root` is mounted onto itself, with what is there
/// already. A kubelet of upstream does the same, but without what is there, which it would hide.
pub fn share(root: &Path) -> io::Result<()> {
    let root = fs::canonicalize(root)?;
    if is_shared(&fs::read_to_string("/proc/self/mountinfo")?, &root) {
        return Ok(());
    }
    let flags = [MsFlags::MS_BIND | MsFlags::MS_REC, MsFlags::MS_SHARED | MsFlags::MS_REC];
    for (flags, source) in flags.into_iter().zip([Some(&root), None]) {
        mount(source, &root, None::<&str>, flags, None::<&str>)
            .map_err(|e| context(e, format!("sharing mounts below {}", root.display())))?;
    }
    Ok(())
}

/// Whether the mount that `path` is on is shared, by a table as `/proc/self/mountinfo`.
fn is_shared(table: &str, path: &Path) -> bool {
    let mut best = (0, false);
    for line in table.lines() {
        let mut fields = line.split(' ').skip(4);
        let Some(point) = fields.next().map(unescape).map(PathBuf::from) else { continue };
        let depth = point.components().count();
        // A later mount on the same place covers the earlier one.
        if path.starts_with(&point) && depth >= best.0 {
            best = (depth, fields.skip(1).take_while(|f| *f != "-").any(|f| f.starts_with("shared:")));
        }
    }
    best.1
}

pub fn unmount(target: &Path) -> io::Result<()> {
    match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EBUSY) => umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
            .map_err(|e| context(e, format!("unmounting {}", target.display()))),
        Err(e) => Err(context(e, format!("unmounting {}", target.display()))),
    }
}

/// Unmounts everything below `root`, then removes it.
pub fn remove_tree(root: &Path) -> io::Result<()> {
    for target in below(root)? {
        unmount(&target)?;
    }
    match fs::remove_dir_all(root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(e.kind(), format!("removing {}: {e}", root.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_and_latest_mount_says_whether_it_is_shared() {
        let table = "20 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            21 20 0:5 / /var/lib/a\\040b rw shared:7 master:1 - tmpfs tmpfs rw\n\
            22 20 0:6 / /var/lib/c rw shared:8 - tmpfs tmpfs rw\n\
            23 20 0:7 / /var/lib/c rw - tmpfs tmpfs rw\n";
        let shared = |p: &str| is_shared(table, Path::new(p));
        assert!(shared("/var/lib/a b/kubelet"));
        assert!(!shared("/var/lib/kubelet") && !shared("/var/lib/c/x"));
    }
}
