//! `ctl`: the command line of Coxswain. It speaks to any v1.36 API server with kubectl's verbs and output, makes
//! and removes clusters on this machine, and imports images.

pub mod api;
pub mod cli;
pub mod cluster;
pub mod cmd;
pub mod image;
pub mod print;
