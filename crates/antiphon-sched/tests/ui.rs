//! What the compiler says to common mistakes: pinned, so that it stays readable.
//!
//! The texts are those of the toolchain that `rust-toolchain.toml` names. After a wanted change:
//! `TRYBUILD=overwrite cargo test -p antiphon-sched --features serde --test ui`.
#![cfg(feature = "serde")]

#[test]
fn mistakes_are_told_readably() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
