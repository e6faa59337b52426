//! TLS on the sockets of actors: the data that arrives, the peers that are refused with which errors, and how connections end.

#[path = "../common/mod.rs"]
mod common;

mod refusals;
mod socket_actors;
mod transfer;
