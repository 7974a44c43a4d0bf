//! Talking to the API server: requests and their errors ([`rest`]), what it serves ([`resources`]), objects from
//! files ([`manifest`]).

pub mod manifest;
pub mod resources;
pub mod rest;
