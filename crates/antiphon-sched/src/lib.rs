//! Antiphon: sched.
