//! W3C trace context: who a request's span belongs to.

use std::fmt;

use http::HeaderMap;

/// Sixteen bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(pub [u8; 16]);

/// Eight bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

/// What a client says its request is part of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl TraceId {
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// Whether this trace is among so many of a million: decided by the id alone, so that every server of a trace
    /// decides alike.
    pub fn is_among(self, per_million: u32) -> bool {
        let tail = u64::from_be_bytes(self.0[8..].try_into().unwrap_or_default()) >> 1;
        let bound = (u128::from(per_million) << 63) / 1_000_000;
        u128::from(tail) < bound
    }
}

impl SpanId {
    pub fn random() -> Self {
        Self(rand::random())
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) {
        return None;
    }
    let mut out = [0; N];
    for (i, b) in out.iter_mut().enumerate() {
        *b = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    out.iter().any(|b| *b != 0).then_some(out)
}

impl fmt::Display for Parent {
    /// As the header `traceparent` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-", self.trace)?;
        self.span.0.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

impl Parent {
    /// From the header `traceparent`; none where it is not there or not well formed.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get("traceparent")?.to_str().ok()?;
        let mut parts = text.split('-');
        let version = parts.next()?;
        if version.len() != 2 || version == "ff" {
            return None;
        }
        let (trace, span, flags) = (hex(parts.next()?)?, hex(parts.next()?)?, parts.next()?);
        if flags.len() != 2 || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        let of = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert("traceparent", v.parse().expect("a header"));
            Parent::read(&h)
        };
        let p = of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").expect("a parent");
        assert!(p.sampled && p.span.0[0] == 0xb7);
        assert!(!of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").expect("a parent").sampled);
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert!(of(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn shares() {
        let n = (0..10_000).filter(|_| TraceId::random().is_among(100_000)).count();
        assert!((800..1200).contains(&n), "{n}");
        assert!(TraceId([255; 16]).is_among(1_000_000) && !TraceId([0; 16]).is_among(0));
    }
}
