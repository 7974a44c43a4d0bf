//! Speed and memory on this machine, a line each: name, value, unit. Arguments choose the parts (`node`, `api`, `store`);
//! none means all.

mod api;
mod figures;
mod node;
mod store;

use anyhow::bail;

/// A part's name and what measures it.
type Part = (&'static str, fn() -> anyhow::Result<()>);

const PARTS: &[Part] = &[("node", node::run), ("api", api::run), ("store", store::run)];

fn main() -> anyhow::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some((store::engine::ARGUMENT, rest)) = wanted.split_first().map(|(first, rest)| (&**first, rest))
    {
        return store::engine::main(rest);
    }
    let names: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|w| !names.contains(&w.as_str())) {
        bail!("there is no part \"{unknown}\" to measure; there are: {}", names.join(", "));
    }
    for (name, run) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            run()?;
        }
    }
    Ok(())
}
