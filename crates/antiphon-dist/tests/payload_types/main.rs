//! What becomes of values of many types on each way between two actors.
//!
//! [`routes`] carries a value of any type on each [`routes::Path`]. The tables of [`arriving`] list values that must arrive
//! unchanged, those of [`refused`] values that must be refused with a named cause, and those of [`changed`] values that
//! serde itself changes.

#[path = "../common/mod.rs"]
mod common;

mod arriving;
mod carried;
mod changed;
mod refused;
mod routes;
mod types;
