//! What types and fields are for. The texts of the whole API are some 850 KB; they lie compressed in the binary and
//! are unpacked for as long as one answer is made.

use std::borrow::Cow;
use std::io::Read as _;

/// A line for each type with fields of few values, then one for each of these, which begins with a tab: the field, its
/// values, and what is said of them after the field's own description.
const ENUMS: &str = include_str!("../../data/enums-v1.36.txt");

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

/// The descriptions, unpacked: a line for each type, then one for each of its fields, which begins with a tab.
pub struct Descriptions {
    text: String,
    /// Where the lines of types begin, in the order of their names.
    types: Vec<usize>,
}

impl Descriptions {
    /// Unpacks them. Takes some milliseconds.
    pub fn load() -> Self {
        let mut text = String::new();
        // The build packed them: what could fail leaves them out.
        if flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text).is_err() {
            text.clear();
        }
        let mut types = Vec::new();
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            if !line.starts_with('\t') {
                types.push(at);
            }
            at += line.len();
        }
        Self { text, types }
    }

    /// The lines of a type: its own, then its fields'.
    fn lines(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        let name_at = |at: &usize| self.text[*at..].split('\t').next().unwrap_or_default();
        let i = self.types.binary_search_by(|at| name_at(at).cmp(name)).ok()?;
        let end = self.types.get(i + 1).copied().unwrap_or(self.text.len());
        Some(self.text[self.types[i]..end].lines())
    }

    /// What a type is for.
    pub fn of_type(&self, name: &str) -> Option<Cow<'_, str>> {
        let (_, about) = self.lines(name)?.next()?.split_once('\t')?;
        (!about.is_empty()).then(|| plain(about))
    }

    /// What a field of a type is for.
    pub fn of_field(&self, name: &str, field: &str) -> Option<Cow<'_, str>> {
        let about = self.lines(name)?.skip(1).find_map(|line| {
            let (f, about) = line.strip_prefix('\t')?.split_once('\t')?;
            (f == field).then_some(about)
        })?;
        (!about.is_empty()).then(|| plain(about))
    }
}

/// The fields of a type that can have few values: name, these values, and what they mean.
pub fn few_valued(name: &str) -> impl Iterator<Item = (&'static str, Vec<&'static str>, Cow<'static, str>)> {
    let after = ENUMS.lines().skip_while(move |l| *l != name).skip(1);
    after.map_while(|l| l.strip_prefix('\t')).filter_map(|line| {
        let (field, rest) = line.split_once('\t')?;
        let (values, about) = rest.split_once('\t')?;
        Some((field, values.split('|').collect(), plain(about)))
    })
}

/// Undoes the escapes that keep a text on one line.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(other) => out.push(other),
                None => {}
            },
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let d = Descriptions::load();
        let about = d.of_type("io.k8s.api.core.v1.Pod").expect("a pod is described");
        assert!(about.starts_with("Pod is a collection of containers"), "{about}");
        let about = d.of_field("io.k8s.api.core.v1.ContainerPort", "hostIP").expect("a field is described");
        assert_eq!(about, "What host IP to bind the external port to.");
        assert!(d.of_field("io.k8s.api.core.v1.ContainerPort", "nothing").is_none());
        assert!(d.of_type("io.k8s.api.core.v1.Nothing").is_none());
        assert_eq!(plain("a\\nb\\\\c"), "a\nb\\c");
    }

    #[test]
    fn fields_of_few_values_name_them() {
        let values_of = |name: &str, field: &str| few_valued(name).find(|(f, ..)| *f == field);
        let (_, values, about) = values_of("io.k8s.api.core.v1.ContainerPort", "protocol").expect("a field");
        assert_eq!(values, ["SCTP", "TCP", "UDP"]);
        assert!(
            about.starts_with("\n\nPossible enum values:\n - `\"SCTP\"` is the SCTP protocol."),
            "{about}"
        );
        assert!(values_of("io.k8s.api.core.v1.ContainerPort", "hostIP").is_none());
        assert!(values_of("io.k8s.api.core.v1.Container", "protocol").is_none());
    }
}
