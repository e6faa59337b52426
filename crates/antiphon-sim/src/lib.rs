//! Antiphon: sim.
