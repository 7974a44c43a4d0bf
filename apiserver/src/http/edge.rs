//! What is done to every answer or instead of one, by flags: CORS, HSTS, closing connections by chance.

use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderValue, Method, header};

use super::{Body, Response};

/// Settings of the edge; all off by default.
#[derive(Default)]
pub struct Edge {
    origins: Vec<regex::Regex>,
    hsts: Option<HeaderValue>,
    goaway_chance: f64,
}

const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE, PATCH";
const HEADERS: &str = "Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, X-Requested-With, If-Modified-Since";

impl Edge {
    /// `origins`: regular expressions; `hsts`: directives; `goaway_chance`: 0 to 0.02.
    pub fn new(origins: &[String], hsts: &[String], goaway_chance: f64) -> anyhow::Result<Self> {
        let mut patterns = Vec::new();
        for o in origins.iter().filter(|o| !o.is_empty()) {
            // An expression that is not held at both ends lets in whoever buys a fitting name.
            let starts =
                o.starts_with('^') || o.starts_with("//") || o.starts_with("(^|") || o.contains("//");
            if !(starts && (o.ends_with('$') || o.ends_with("(:|$)") || o.contains(':'))) {
                bail!(
                    "--cors-allowed-origins has an invalid regular expression: {o:?} does not pin both ends of the host: use ^ or // and $ or :"
                );
            }
            let p = regex::Regex::new(o)
                .with_context(|| format!("--cors-allowed-origins has an invalid regular expression: {o}"))?;
            patterns.push(p);
        }
        let mut directives = Vec::new();
        for d in hsts.iter().map(|d| d.trim()).filter(|d| !d.is_empty()) {
            let age = d.strip_prefix("max-age=").is_some_and(|n| n.parse::<u64>().is_ok());
            if !(age || d == "includeSubDomains" || d == "preload") {
                bail!(
                    "--strict-transport-security-directives invalid, allowed values: max-age=expireTime, includeSubDomains, preload. see https://tools.ietf.org/html/rfc6797#section-6.1 for more information"
                );
            }
            directives.push(d);
        }
        let hsts = match directives.as_slice() {
            [] => None,
            d => {
                Some(HeaderValue::from_str(&d.join("; ")).context("--strict-transport-security-directives")?)
            }
        };
        if !(0.0..=0.02).contains(&goaway_chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        Ok(Self { origins: patterns, hsts, goaway_chance })
    }

    /// The `Access-Control-*` headers for a page of another origin that is let in.
    pub fn cross_origin(&self, request: &HeaderMap) -> Option<HeaderMap> {
        if self.origins.is_empty() {
            return None;
        }
        let origin = request.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?;
        if !self.origins.iter().any(|p| p.is_match(text)) {
            return None;
        }
        let mut h = HeaderMap::new();
        h.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        h.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        h.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(HEADERS));
        h.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Date"));
        h.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        Some(h)
    }

    /// The answer to a browser that asks before it sends.
    pub fn preflight(method: &Method, allowed: &HeaderMap) -> Option<Response> {
        if method != Method::OPTIONS {
            return None;
        }
        let mut r = Response::new(Body::Empty);
        *r.status_mut() = http::StatusCode::NO_CONTENT;
        r.headers_mut().extend(allowed.clone());
        Some(r)
    }

    /// Headers that every answer has.
    pub fn finish(&self, r: &mut Response) {
        let h = r.headers_mut();
        if let Some(v) = &self.hsts {
            h.insert(header::STRICT_TRANSPORT_SECURITY, v.clone());
        }
        if !h.contains_key(header::CACHE_CONTROL) {
            h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        }
    }

    /// Whether this request's connection is to be closed after what runs on it, so that clients spread anew over the
    /// servers behind a load balancer.
    pub fn unlucky(&self) -> bool {
        self.goaway_chance > 0.0 && rand::random::<f64>() < self.goaway_chance
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let e = Edge::new(&list(&[r"^https://.*\.example\.com$"]), &[], 0.0).expect("flags");
        let mut h = HeaderMap::new();
        assert!(e.cross_origin(&h).is_none());
        h.insert("origin", HeaderValue::from_static("https://a.example.com"));
        let allowed = e.cross_origin(&h).expect("let in");
        assert_eq!(allowed["access-control-allow-origin"], "https://a.example.com");
        let r = Edge::preflight(&Method::OPTIONS, &allowed).expect("an answer");
        assert_eq!(r.status(), 204);
        assert!(Edge::preflight(&Method::GET, &allowed).is_none());
        h.insert("origin", HeaderValue::from_static("https://a.example.com.evil.test"));
        assert!(e.cross_origin(&h).is_none());
        assert!(Edge::new(&list(&["example.com"]), &[], 0.0).is_err());
        assert!(Edge::new(&list(&["^(//$"]), &[], 0.0).is_err());
    }

    #[test]
    fn hsts_and_chance() {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let e = Edge::new(&[], &list(&["max-age=31536000", "includeSubDomains"]), 0.0).expect("flags");
        let mut r = Response::new(Body::Empty);
        e.finish(&mut r);
        assert_eq!(r.headers()["strict-transport-security"], "max-age=31536000; includeSubDomains");
        assert_eq!(r.headers()["cache-control"], "no-cache, private");
        assert!(!e.unlucky());
        assert!(Edge::new(&[], &list(&["max-age=x"]), 0.0).is_err());
        assert!(Edge::new(&[], &[], 0.5).is_err());
    }
}
