//! Output in kubectl's forms: aligned tables, YAML, JSON, names, JSONPath, custom columns.

pub mod describe;
pub mod format;
pub mod jsonpath;
pub mod table;
pub mod time;
