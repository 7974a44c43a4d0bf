//! What the rules of a server's namespace drop. Only packets between servers: clients still reach all of them.

use crate::plan::Cut;

/// One table, replaced as a whole.
const TABLE: &str = "inet faults";

/// No rules.
pub fn healed() -> String {
    // Making it first lets the removal succeed always.
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

fn rules(input: &str, output: &str) -> String {
    format!(
        "{}table {TABLE} {{\n chain in {{\n  type filter hook input priority 0\n  {input}\n }}\n chain out {{\n  type filter hook output priority 0\n  {output}\n }}\n}}\n",
        healed()
    )
}

/// Rules for a server that is cut off from `others`; of a pair only the first is.
pub fn cut(cut: Cut, others: &[String]) -> String {
    let reached = if cut == Cut::Pair { &others[..1.min(others.len())] } else { others };
    let set = reached.join(", ");
    let (input, output) = (format!("ip saddr {{ {set} }} drop"), format!("ip daddr {{ {set} }} drop"));
    match cut {
        Cut::Apart | Cut::Pair => rules(&input, &output),
        Cut::Deaf => rules(&input, ""),
        Cut::Mute => rules("", &output),
    }
}

/// Rules that lose so many of a hundred packets from `others`.
pub fn loss(percent: u8, others: &[String]) -> String {
    rules(&format!("ip saddr {{ {} }} numgen random mod 100 < {percent} drop", others.join(", ")), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_is_dropped() {
        let others = ["10.0.0.1".to_owned(), "10.0.0.2".to_owned()];
        assert!(
            cut(Cut::Deaf, &others)
                .contains("hook input priority 0\n  ip saddr { 10.0.0.1, 10.0.0.2 } drop\n")
        );
        assert!(!cut(Cut::Deaf, &others).contains("daddr"));
        assert!(!cut(Cut::Mute, &others).contains("saddr"));
        assert!(!cut(Cut::Pair, &others).contains("10.0.0.2"));
        assert!(loss(7, &others).contains("numgen random mod 100 < 7 drop"));
    }
}
