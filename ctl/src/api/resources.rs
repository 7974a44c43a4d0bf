//! What the server serves, and which resource a word of the command line means (`po`, `pods`, `deploy`,
//! `deployments.apps`, `deployments.v1.apps`).

use anyhow::{anyhow, bail};
use http::Method;
use serde_json::Value;

use super::rest::{Media, Rest};

/// One resource of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub group: String,
    pub version: String,
    /// Plural name.
    pub name: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub verbs: Vec<String>,
    pub subresources: Vec<String>,
}

impl Resource {
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `/api/v1/namespaces/NS/pods` or with the name behind it. `None` as namespace means all of them.
    pub fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut p = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let Some(ns) = namespace.filter(|_| self.namespaced) {
            p.push_str(&format!("/namespaces/{ns}"));
        }
        p.push_str(&format!("/{}", self.name));
        if let Some(n) = name {
            p.push_str(&format!("/{n}"));
        }
        p
    }

    /// `pod/name`, `deployment.apps/name`: how kubectl names an object.
    pub fn display(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{}/{name}", self.singular)
        } else {
            format!("{}.{}/{name}", self.singular, self.group)
        }
    }

    /// `pods`, `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.name.clone() } else { format!("{}.{}", self.name, self.group) }
    }
}

/// Everything the server serves, in its order of preference.
#[derive(Debug, Clone, Default)]
pub struct Catalog(pub Vec<Resource>);

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

impl Catalog {
    /// Asks the server, through aggregated discovery.
    ///
    /// # Errors
    /// The server cannot be asked, or speaks only the older form of discovery.
    pub async fn fetch(rest: &Rest) -> anyhow::Result<Self> {
        let mut out = Vec::new();
        for root in ["/api", "/apis"] {
            let media = Media { accept: Some(AGGREGATED), content_type: None };
            let list = rest.call(Method::GET, root, media, None).await?;
            let groups = list["items"].as_array().ok_or_else(|| {
                anyhow!("{root} gives no aggregated discovery: the server is older than v1.30")
            })?;
            for group in groups {
                let name = text(&group["metadata"]["name"]);
                for version in array(&group["versions"]) {
                    for r in array(&version["resources"]) {
                        out.push(resource(&name, &text(&version["version"]), r));
                    }
                }
            }
        }
        Ok(Self(out))
    }

    /// The resource that a word means.
    ///
    /// # Errors
    /// The server has no such resource.
    pub fn find(&self, word: &str) -> anyhow::Result<&Resource> {
        let lower = word.to_ascii_lowercase();
        let (name, qualifier) = lower.split_once('.').unwrap_or((&lower, ""));
        let of_group = |r: &&Resource| {
            qualifier.is_empty()
                || r.group == qualifier
                || qualifier.split_once('.').map_or(r.group.is_empty() && r.version == qualifier, |(v, g)| {
                    r.version == v && r.group == g
                })
        };
        let candidates = || self.0.iter().filter(of_group);
        candidates()
            .find(|r| r.name == name || r.singular == name)
            .or_else(|| candidates().find(|r| r.short_names.iter().any(|s| s == name)))
            .or_else(|| candidates().find(|r| r.kind.eq_ignore_ascii_case(name)))
            .ok_or_else(|| anyhow!("the server doesn't have a resource type \"{word}\""))
    }

    /// The resource of an object's `apiVersion` and `kind`.
    ///
    /// # Errors
    /// The server does not serve it.
    pub fn of_object(&self, object: &Value) -> anyhow::Result<&Resource> {
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        if kind.is_empty() || version.is_empty() {
            bail!("an object must have apiVersion and kind");
        }
        self.0.iter().find(|r| r.group == group && r.version == version && r.kind == kind).ok_or_else(|| {
            anyhow!("no matches for kind \"{kind}\" in version \"{api_version}\": the server does not serve it, or its CRD is not installed")
        })
    }

    /// All resources of a category such as `all`, one version of each.
    pub fn category(&self, name: &str) -> Vec<&Resource> {
        let mut out: Vec<&Resource> = Vec::new();
        for r in self.0.iter().filter(|r| r.categories.iter().any(|c| c == name)) {
            if !out.iter().any(|o| o.group == r.group && o.name == r.name) {
                out.push(r);
            }
        }
        out
    }
}

fn resource(group: &str, version: &str, r: &Value) -> Resource {
    let list = |v: &Value| array(v).iter().map(text).collect();
    let kind = text(&r["responseKind"]["kind"]);
    let singular = Some(text(&r["singularResource"]))
        .filter(|s| !s.is_empty())
        .unwrap_or_else(|| kind.to_ascii_lowercase());
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        name: text(&r["resource"]),
        singular,
        kind,
        namespaced: r["scope"] == "Namespaced",
        short_names: list(&r["shortNames"]),
        categories: list(&r["categories"]),
        verbs: list(&r["verbs"]),
        subresources: array(&r["subresources"]).iter().map(|s| text(&s["subresource"])).collect(),
    }
}

/// The text of a value; empty if it is none.
pub fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

/// The items of a value; none if it is no array.
pub fn array(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let r = |group: &str, version: &str, name: &str, kind: &str, short: &str| Resource {
            group: group.into(),
            version: version.into(),
            name: name.into(),
            singular: kind.to_ascii_lowercase(),
            kind: kind.into(),
            namespaced: true,
            short_names: vec![short.into()],
            categories: vec!["all".into()],
            verbs: vec![],
            subresources: vec![],
        };
        Catalog(vec![
            r("", "v1", "pods", "Pod", "po"),
            r("", "v1", "events", "Event", "ev"),
            r("apps", "v1", "deployments", "Deployment", "deploy"),
            r("events.k8s.io", "v1", "events", "Event", "ev"),
        ])
    }

    #[test]
    fn words_mean_what_kubectl_takes_them_for() {
        let c = catalog();
        for (word, expected) in [
            ("po", "pods"),
            ("Pod", "pods"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployments.v1.apps", "deployments.apps"),
            ("events", "events"),
            ("events.events.k8s.io", "events.events.k8s.io"),
            ("pods.v1.", "pods"),
        ] {
            assert_eq!(c.find(word).unwrap().qualified(), expected, "{word}");
        }
        assert!(c.find("widgets").unwrap_err().to_string().contains("\"widgets\""));
        assert!(c.find("pods.apps").is_err());
    }
}
