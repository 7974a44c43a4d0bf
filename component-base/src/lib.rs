//! component-base.
