//! Antiphon: dist.
