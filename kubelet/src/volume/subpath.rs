//! `subPath` mounts. The path is resolved by the kernel without ever leaving the volume (`RESOLVE_BENEATH`), and
//! what was opened is bind-mounted, so that a symlink changed later cannot lead elsewhere.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::Mode,
};

use super::mounts;

fn open(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// Refuses paths that step out of the volume.
pub fn check(path: &str) -> Result<(), String> {
    if Path::new(path).is_absolute() {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if Path::new(path).components().any(|c| c == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(())
}

/// Binds `volume/sub` onto `target` and returns `target`. Missing folders are made with the volume's mode.
pub fn prepare(volume: &Path, sub: &str, target: &Path) -> io::Result<PathBuf> {
    let fail = |what: &str, e: nix::Error| io::Error::other(format!("{what} subPath {sub:?}: {e}"));
    let root: OwnedFd = fs::File::open(volume)?.into();
    let mode = fs::metadata(volume)?.permissions();
    let mut fd = open(&root, Path::new(sub));
    if matches!(fd, Err(nix::Error::ENOENT)) {
        let mut so_far = PathBuf::new();
        for part in Path::new(sub).components() {
            let parent = if so_far.as_os_str().is_empty() {
                root.try_clone()?
            } else {
                open(&root, &so_far).map_err(|e| fail("opening", e))?
            };
            so_far.push(part);
            if matches!(open(&root, &so_far), Err(nix::Error::ENOENT)) {
                let made = format!("/proc/self/fd/{}/{}", parent.as_raw_fd(), Path::new(&part).display());
                nix::sys::stat::mkdirat(&parent, Path::new(&part), Mode::from_bits_truncate(0o755))
                    .map_err(|e| fail("creating", e))?;
                fs::set_permissions(made, mode.clone())?;
            }
        }
        fd = open(&root, Path::new(sub));
    }
    let fd = fd.map_err(|e| fail("opening", e))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    if mounts::is_mount_point(target)? {
        mounts::unmount(target)?;
    }
    let is_dir = fs::metadata(&source)?.is_dir();
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    if is_dir {
        fs::create_dir_all(target)?;
    } else {
        fs::OpenOptions::new().create(true).append(true).open(target)?;
    }
    mounts::bind(&source, target)?;
    Ok(target.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_out() {
        assert!(check("/etc").is_err());
        assert!(check("a/../../b").is_err());
        check("a/b").unwrap();
        let dir = std::env::temp_dir().join(format!("kubelet-subpath-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("out")).unwrap();
        std::os::unix::fs::symlink("in", dir.join("link")).unwrap();
        fs::create_dir_all(dir.join("in")).unwrap();
        let root: OwnedFd = fs::File::open(&dir).unwrap().into();
        assert_eq!(open(&root, Path::new("out/passwd")).unwrap_err(), nix::Error::EXDEV);
        open(&root, Path::new("link")).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
