//! Where a walker is inside an object: a chain of steps on the stack, written out only when there is something
//! to tell.

use std::fmt::Write as _;

use crate::field::Path;

/// One step down.
#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    /// A field with a name of its own in the schema.
    Field(&'a str),
    /// An entry of a map.
    Key(&'a str),
    Index(usize),
}

/// A place in an object.
#[derive(Debug, Clone, Copy)]
pub struct Loc<'a> {
    parent: Option<&'a Loc<'a>>,
    step: Step<'a>,
}

impl<'a> Loc<'a> {
    /// The object itself.
    pub const ROOT: Loc<'static> = Loc { parent: None, step: Step::Root };

    pub fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    pub fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    pub fn index(&'a self, i: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(i) }
    }

    pub fn is_root(&self) -> bool {
        self.parent.is_none()
    }

    fn steps(&self) -> Vec<Step<'a>> {
        let mut steps = Vec::new();
        let mut at = Some(self);
        while let Some(l) = at {
            steps.push(l.step);
            at = l.parent;
        }
        steps.reverse();
        steps
    }

    /// `spec.map.key[0]`, as the value checks name places. An entry of a map that is the root itself begins
    /// with a dot.
    pub fn dotted(&self) -> String {
        let mut out = String::new();
        for s in self.steps() {
            match s {
                Step::Root => {}
                Step::Field(n) if out.is_empty() => out.push_str(n),
                Step::Field(n) | Step::Key(n) => {
                    out.push('.');
                    out.push_str(n);
                }
                Step::Index(i) => {
                    let _ = write!(out, "[{i}]");
                }
            }
        }
        out
    }

    /// `spec.map.key[0]`, as unknown fields are named.
    pub fn plain(&self) -> String {
        let s = self.dotted();
        s.strip_prefix('.').map(str::to_owned).unwrap_or(s)
    }

    /// `spec.map[key][0]`, below `from`.
    pub fn path(&self, from: &Path) -> Path {
        self.steps().into_iter().fold(from.clone(), |p, s| match s {
            Step::Root => p,
            Step::Field(n) => p.child(n),
            Step::Key(k) => p.key(k),
            Step::Index(i) => p.index(i),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_told_in_three_ways() {
        let root = Loc::ROOT;
        let (spec, map) = (root.field("spec"), root.key("k"));
        let key = spec.key("a");
        let at = key.index(1);
        assert_eq!(at.dotted(), "spec.a[1]");
        assert_eq!(at.path(&Path::default()).to_string(), "spec[a][1]");
        assert_eq!((map.dotted().as_str(), map.plain().as_str()), (".k", "k"));
    }
}
