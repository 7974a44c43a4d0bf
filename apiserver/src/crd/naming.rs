//! Which names a definition gets: each name belongs to one definition of its group, whoever had it first. Pure.

use std::collections::BTreeSet;

use super::conditions::Condition;
use super::definition::Names;

/// Names that other definitions of the group hold.
#[derive(Debug, Default, Clone)]
pub struct Taken {
    /// Plural, singular and short names, which share one space.
    pub resources: BTreeSet<String>,
    /// Kinds and list kinds, which share another.
    pub kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds the names of one definition.
    pub fn add(&mut self, n: &Names) {
        self.resources.extend([n.plural.clone(), n.singular.clone()]);
        self.resources.extend(n.short.iter().cloned());
        self.kinds.extend([n.kind.clone(), n.list_kind.clone()]);
    }
}

/// The names to serve under, given those asked for and those accepted so far, and the `NamesAccepted` condition.
/// A name that is refused stays what it was.
pub fn accept(asked: &Names, accepted: &Names, taken: &Taken) -> (Names, Condition) {
    let mut names = accepted.clone();
    let mut refused: Option<(&'static str, String)> = None;
    let clash = |name: &str, own: &str, used: &BTreeSet<String>| {
        (name != own && used.contains(name)).then(|| format!("{name:?} is already in use"))
    };
    let (resources, kinds) = (&taken.resources, &taken.kinds);
    match clash(&asked.plural, &accepted.plural, resources) {
        Some(why) => refused = Some(("PluralConflict", why)),
        None => names.plural.clone_from(&asked.plural),
    }
    match clash(&asked.singular, &accepted.singular, resources) {
        Some(why) => refused = Some(("SingularConflict", why)),
        None => names.singular.clone_from(&asked.singular),
    }
    let clashes: Vec<String> = asked
        .short
        .iter()
        .filter(|n| !accepted.short.contains(n))
        .filter_map(|n| clash(n, "", resources))
        .collect();
    match clashes.as_slice() {
        [] => names.short.clone_from(&asked.short),
        [one] => refused = Some(("ShortNamesConflict", one.clone())),
        several => refused = Some(("ShortNamesConflict", format!("[{}]", several.join(", ")))),
    }
    match clash(&asked.kind, &accepted.kind, kinds) {
        Some(why) => refused = Some(("KindConflict", why)),
        None => names.kind.clone_from(&asked.kind),
    }
    match clash(&asked.list_kind, &accepted.list_kind, kinds) {
        Some(why) => refused = Some(("ListKindConflict", why)),
        None => names.list_kind.clone_from(&asked.list_kind),
    }
    names.categories.clone_from(&asked.categories);
    let condition = match refused {
        Some((reason, why)) => Condition::new("NamesAccepted", "False", reason, why),
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    (names, condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, kind: &str, short: &[&str]) -> Names {
        Names {
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short: short.iter().map(|s| (*s).to_owned()).collect(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            categories: Vec::new(),
        }
    }

    #[test]
    fn the_first_keeps_its_names() {
        let mut taken = Taken::default();
        let foos = names("foos", "Foo", &["f"]);
        let (got, c) = accept(&foos, &Names::default(), &taken);
        assert_eq!((got, c.status, c.reason), (foos.clone(), "True", "NoConflicts"));
        taken.add(&foos);

        let (got, c) = accept(&names("bars", "Foo", &[]), &Names::default(), &taken);
        assert_eq!((got.plural.as_str(), got.kind.as_str(), got.list_kind.as_str()), ("bars", "", ""));
        assert_eq!((c.status, c.reason), ("False", "ListKindConflict"));
        assert_eq!(c.message, "\"FooList\" is already in use");

        let (got, c) = accept(&names("bars", "Bar", &["f", "foos", "b"]), &Names::default(), &taken);
        assert!(got.short.is_empty() && got.kind == "Bar");
        assert_eq!(c.reason, "ShortNamesConflict");
        assert_eq!(c.message, "[\"f\" is already in use, \"foos\" is already in use]");

        taken.resources.insert("b".into());
        let own = names("bars", "Bar", &["b"]);
        assert_eq!(accept(&own, &own, &taken).1.status, "True", "what is ours stays ours");
    }
}
