//! Credentials for webhooks, from kubeconfig files: those that name one server (authentication, authorization, audit)
//! and those whose users are chosen by the host that is called (`kubeConfigFile` of admission webhooks).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use serde_json::Value;

use super::tls::Identity;
use crate::lookup::{items, text};

/// How long a token is used before its file is read again.
const TOKEN_AGE: Duration = Duration::from_secs(10);

/// What a client shows of itself.
#[derive(Debug, Default)]
pub struct Credentials {
    pub identity: Option<Identity>,
    authorization: Option<Authorization>,
    impersonation: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug)]
enum Authorization {
    Fixed(HeaderValue),
    /// A bearer token in a file that others rewrite.
    File {
        path: PathBuf,
        read: Mutex<Option<(Instant, HeaderValue)>>,
    },
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut v =
        HeaderValue::from_str(text).map_err(|_| "the credentials have characters that no header may have")?;
    v.set_sensitive(true);
    Ok(v)
}

impl Credentials {
    /// Reads the `user` of a kubeconfig; relative paths are taken from `folder`.
    ///
    /// # Errors
    /// A file cannot be read, or the user is authenticated by a plugin.
    fn of_user(user: &Value, folder: &Path) -> Result<Self, String> {
        for f in ["exec", "auth-provider"] {
            if user.get(f).is_some_and(|v| !v.is_null()) {
                return Err(format!(
                    "{f} is not supported for webhooks: use a token or a client certificate"
                ));
            }
        }
        let cert = data_or_file(user, "client-certificate", folder)?;
        let key = data_or_file(user, "client-key", folder)?;
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            (None, None) => None,
            _ => return Err("client-certificate and client-key must be given together".to_owned()),
        };
        let (token, file) = (text(user, "/token"), text(user, "/tokenFile"));
        let (name, password) = (text(user, "/username"), text(user, "/password"));
        let authorization = if !file.is_empty() {
            Some(Authorization::File { path: folder.join(file), read: Mutex::new(None) })
        } else if !token.is_empty() {
            Some(Authorization::Fixed(secret(&format!("Bearer {token}"))?))
        } else if !name.is_empty() || !password.is_empty() {
            let pair = STANDARD.encode(format!("{name}:{password}"));
            Some(Authorization::Fixed(secret(&format!("Basic {pair}"))?))
        } else {
            None
        };
        let mut impersonation = Vec::new();
        let mut add = |name: &'static str, value: &str| -> Result<(), String> {
            let value =
                HeaderValue::from_str(value).map_err(|_| format!("{name}: {value:?} is no header"))?;
            impersonation.push((HeaderName::from_static(name), value));
            Ok(())
        };
        if !text(user, "/as").is_empty() {
            add("impersonate-user", text(user, "/as"))?;
            for g in items(user, "/as-groups").iter().filter_map(Value::as_str) {
                add("impersonate-group", g)?;
            }
        }
        Ok(Self { identity, authorization, impersonation })
    }

    /// Adds what identifies the caller.
    ///
    /// # Errors
    /// The token's file cannot be read.
    pub fn apply(&self, headers: &mut HeaderMap) -> Result<(), String> {
        match &self.authorization {
            None => {}
            Some(Authorization::Fixed(v)) => {
                headers.insert(header::AUTHORIZATION, v.clone());
            }
            Some(Authorization::File { path, read }) => {
                let mut read = read.lock();
                let fresh = read.as_ref().filter(|(at, _)| at.elapsed() < TOKEN_AGE);
                let value = match fresh {
                    Some((_, v)) => v.clone(),
                    None => {
                        let token = std::fs::read_to_string(path)
                            .map_err(|e| format!("reading the token {}: {e}", path.display()))?;
                        let v = secret(&format!("Bearer {}", token.trim()))?;
                        *read = Some((Instant::now(), v.clone()));
                        v
                    }
                };
                headers.insert(header::AUTHORIZATION, value);
            }
        }
        for (name, value) in &self.impersonation {
            headers.append(name, value.clone());
        }
        Ok(())
    }
}

/// `FIELD-data` in base64 or the contents of the file `FIELD`.
fn data_or_file(v: &Value, field: &str, folder: &Path) -> Result<Option<Vec<u8>>, String> {
    let data = v.get(format!("{field}-data")).and_then(Value::as_str).unwrap_or_default();
    if !data.is_empty() {
        return STANDARD.decode(data).map(Some).map_err(|e| format!("{field}-data: {e}"));
    }
    match v.get(field).and_then(Value::as_str) {
        None | Some("") => Ok(None),
        Some(file) => {
            let path = folder.join(file);
            std::fs::read(&path).map(Some).map_err(|e| format!("{field}: reading {}: {e}", path.display()))
        }
    }
}

/// A kubeconfig file, parsed.
struct File {
    config: Value,
    folder: PathBuf,
}

impl File {
    fn read(path: &Path) -> Result<Self, String> {
        let at = |e: String| format!("kubeconfig {}: {e}", path.display());
        let raw = std::fs::read(path).map_err(|e| at(e.to_string()))?;
        let config = serde_yaml::from_slice(&raw).map_err(|e| at(e.to_string()))?;
        Ok(Self { config, folder: path.parent().map(Path::to_path_buf).unwrap_or_default() })
    }

    /// The entry named `name` of a list, without its name.
    fn named(&self, list: &str, entry: &str, name: &str) -> Option<&Value> {
        items(&self.config, list).iter().find(|e| text(e, "/name") == name)?.get(entry)
    }

    fn user(&self, name: &str) -> Result<Option<Credentials>, String> {
        match self.named("/users", "user", name) {
            None => Ok(None),
            Some(u) => {
                Credentials::of_user(u, &self.folder).map(Some).map_err(|e| format!("user {name:?}: {e}"))
            }
        }
    }
}

/// Which user calls which server: the users of a kubeconfig are named after hosts, with `*.` for every host of a
/// domain and `*` for all. Source: "Authenticate API servers" of the admission webhook documentation.
#[derive(Default)]
pub struct Identities(Option<File>);

impl Identities {
    /// # Errors
    /// The file cannot be read or parsed.
    pub fn read(path: &Path) -> Result<Self, String> {
        File::read(path).map(|f| Self(Some(f)))
    }

    /// The credentials for `HOST:PORT`.
    ///
    /// # Errors
    /// The user that is meant is unusable.
    pub fn for_target(&self, target: &str) -> Result<Credentials, String> {
        let Some(file) = &self.0 else { return Ok(Credentials::default()) };
        let mut names = candidates(target);
        if let Some(host) = target.strip_suffix(":443") {
            names.extend(candidates(host));
        }
        names.push("*".to_owned());
        for name in names {
            if let Some(c) = file.user(&name)? {
                return Ok(c);
            }
        }
        let context = file.named("/contexts", "context", text(&file.config, "/current-context"));
        match context.map(|c| text(c, "/user")).filter(|u| !u.is_empty()) {
            Some(u) => Ok(file.user(u)?.unwrap_or_default()),
            None => Ok(Credentials::default()),
        }
    }
}

/// `a.b.c`, `*.b.c`, `*.c`.
fn candidates(target: &str) -> Vec<String> {
    let mut out = vec![target.to_owned()];
    let mut rest = target;
    while let Some((_, tail)) = rest.split_once('.') {
        out.push(format!("*.{tail}"));
        rest = tail;
    }
    out
}

/// The one server of a kubeconfig's current context.
pub struct Server {
    pub url: String,
    pub ca: Option<Vec<u8>>,
    pub insecure: bool,
    pub server_name: Option<String>,
    pub credentials: Credentials,
}

impl Server {
    /// # Errors
    /// The file cannot be read, or its current context names no usable cluster.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = File::read(path)?;
        let at = |e: String| format!("kubeconfig {}: {e}", path.display());
        let current = text(&file.config, "/current-context");
        let context = file
            .named("/contexts", "context", current)
            .ok_or_else(|| at(format!("context {current:?} does not exist")))?;
        let name = text(context, "/cluster");
        let cluster = file
            .named("/clusters", "cluster", name)
            .ok_or_else(|| at(format!("cluster {name:?} does not exist")))?;
        if !text(cluster, "/proxy-url").is_empty() {
            return Err(at("proxy-url is not supported for webhooks".to_owned()));
        }
        let url = text(cluster, "/server");
        if url.is_empty() {
            return Err(at(format!("cluster {name:?} has no server")));
        }
        let user = text(context, "/user");
        let credentials = if user.is_empty() {
            Credentials::default()
        } else {
            file.user(user).map_err(at)?.ok_or_else(|| at(format!("user {user:?} does not exist")))?
        };
        let server_name = text(cluster, "/tls-server-name");
        Ok(Self {
            url: url.to_owned(),
            ca: data_or_file(cluster, "certificate-authority", &file.folder).map_err(at)?,
            insecure: cluster.get("insecure-skip-tls-verify") == Some(&Value::Bool(true)),
            server_name: (!server_name.is_empty()).then(|| server_name.to_owned()),
            credentials,
        })
    }
}
