//! The replacement of this node's credentials while it runs.
//!
//! Invariant: a connection that was proven with credentials of before is replaced by another one, or is closed after the
//! time of `peer_timeout`. Its session continues.
