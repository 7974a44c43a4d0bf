//! `/logs/`: the files below `/var/log`, as upstream's `enableSystemLogHandler` serves them: folders as a list of links,
//! files as they are.
//!
//! A link that leads out of the folder is not followed: whoever may write there, such as a pod with that folder mounted,
//! could have the kubelet read any file of the node.

use std::io;
use std::path::{Path, PathBuf};

use component_base::serving::{health::text, listener::Body};
use futures::TryStreamExt as _;
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio_util::io::ReaderStream;

const HTML: &str = "text/html; charset=utf-8";

/// What a path leads to.
enum Found {
    /// Names, those of folders with a slash.
    Folder(Vec<String>),
    File(PathBuf, u64),
}

/// The answer for what is at `path` below `root`; `path` is decoded and begins after `/logs`.
pub async fn answer(root: PathBuf, path: String) -> Response<Body> {
    let relative = path.trim_start_matches('/').to_owned();
    let found = tokio::task::spawn_blocking(move || find(&root, &relative)).await;
    match found.unwrap_or_else(|e| Err(io::Error::other(e))) {
        // Links in the list are relative to a path with a slash.
        Ok(Found::Folder(_)) if !path.ends_with('/') => {
            let last = path.rsplit('/').next().filter(|l| !l.is_empty()).unwrap_or("logs");
            let mut answer = text(StatusCode::MOVED_PERMANENTLY, HTML, String::new());
            if let Ok(to) = header::HeaderValue::from_str(&format!("{}/", encoded(last))) {
                answer.headers_mut().insert(header::LOCATION, to);
            }
            answer
        }
        Ok(Found::Folder(names)) => text(StatusCode::OK, HTML, listing(&names)),
        Ok(Found::File(file, size)) => send(&file, size).await,
        Err(e) => refused(&e),
    }
}

fn refused(e: &io::Error) -> Response<Body> {
    let (status, message) = match e.kind() {
        io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "403 Forbidden\n"),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            (StatusCode::NOT_FOUND, "404 page not found\n")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error\n"),
    };
    text(status, "text/plain; charset=utf-8", message.to_owned())
}

fn find(root: &Path, relative: &str) -> io::Result<Found> {
    let root = root.canonicalize()?;
    let path = root.join(relative).canonicalize()?;
    if !path.starts_with(&root) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let meta = path.metadata()?;
    if meta.is_file() {
        return Ok(Found::File(path, meta.len()));
    }
    if !meta.is_dir() {
        // Reading a pipe or a device may never end.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut names = Vec::new();
    for entry in path.read_dir()? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(Found::Folder(names))
}

fn listing(names: &[String]) -> String {
    let mut out =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        out.push_str(&format!("<a href=\"{}\">{}</a>\n", encoded(name), escape(name)));
    }
    out.push_str("</pre>\n");
    out
}

fn escape(name: &str) -> String {
    let pairs = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];
    name.chars()
        .map(|c| pairs.iter().find(|(p, _)| *p == c).map_or_else(|| c.to_string(), |(_, e)| (*e).to_owned()))
        .collect()
}

/// A name as a relative reference: anything that could be read as more than a name is percent-encoded.
fn encoded(name: &str) -> impl std::fmt::Display {
    const PLAIN: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');
    utf8_percent_encode(name, PLAIN)
}

async fn send(file: &Path, size: u64) -> Response<Body> {
    let opened = match tokio::fs::File::open(file).await {
        Ok(f) => f,
        Err(e) => return refused(&e),
    };
    // What is appended meanwhile is left out: the length has been told.
    let content = ReaderStream::new(tokio::io::AsyncReadExt::take(opened, size)).map_ok(Frame::data);
    let mut answer = Response::new(StreamBody::new(content).boxed_unsync());
    let kind = match file.extension().and_then(|e| e.to_str()) {
        Some("gz") => "application/gzip",
        _ => "text/plain; charset=utf-8",
    };
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    answer.headers_mut().insert(header::CONTENT_LENGTH, size.into());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(root: &Path, path: &str) -> (u16, String, String) {
        let answer = answer(root.to_owned(), path.to_owned()).await;
        let location = answer.headers().get(header::LOCATION).map(|l| l.to_str().unwrap().to_owned());
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned(), location.unwrap_or_default())
    }

    #[tokio::test]
    async fn folders_are_listed_and_files_sent() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("pods/a.log"), "one\ntwo\n").unwrap();
        std::fs::write(root.join("a <b>:1"), "").unwrap();
        let (status, list, _) = get(&root, "/").await;
        assert_eq!(status, 200);
        assert!(
            list.contains("<a href=\"a%20%3Cb%3E%3A1\">a &lt;b&gt;:1</a>\n<a href=\"pods/\">pods/</a>\n"),
            "{list}"
        );
        assert_eq!(get(&root, "/pods/a.log").await.1, "one\ntwo\n");
        assert_eq!(get(&root, "/pods").await, (301, String::new(), "pods/".into()));
        assert_eq!(get(&root, "").await.2, "logs/");
    }

    #[tokio::test]
    async fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("out")).unwrap();
        std::os::unix::fs::symlink("/", root.join("all")).unwrap();
        std::os::unix::fs::symlink("d", root.join("in")).unwrap();
        for path in ["/../secret", "/out", "/all/etc/passwd", "//etc/passwd", "/d/../../secret"] {
            let (status, body, _) = get(&root, path).await;
            assert!(matches!(status, 403 | 404) && !body.contains('x'), "{path}: {status} {body}");
        }
        assert_eq!(get(&root, "/in/").await.0, 200);
        assert_eq!(get(&root, "/none").await.0, 404);
        assert_eq!(get(&root, "/d\0").await.0, 404);
    }
}
