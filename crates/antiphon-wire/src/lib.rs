//! Antiphon: wire.
