//! Sockets of actors that talk by TLS: what arrives, whom they refuse and what is said of it, and how they end.

#[path = "../common/mod.rs"]
mod common;

mod players;
mod refusals;
mod talking;
