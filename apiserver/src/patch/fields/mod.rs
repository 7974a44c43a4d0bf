//! Sets of field paths over typed values: what server-side apply reckons with. See [`Set`] for the sets and
//! [`Ty`] for how values are looked at.

mod compare;
mod merge;
mod set;
mod ty;

pub use compare::{Comparison, compare, compare_shown};
pub use merge::{merge, remove};
pub use set::{Set, path_text};
pub use ty::{Ty, to_set, validate, view};

pub(crate) use ty::{Atom, item_element};
