//! The compiler's errors for common mistakes, pinned so that they stay readable.
//!
//! The texts are those of the toolchain in `rust-toolchain.toml`. To update them after an intended change:
//! `TRYBUILD=overwrite cargo test -p antiphon-sched --features serde --test ui`.
#![cfg(feature = "serde")]

#[test]
fn compile_errors_match_pinned_texts() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
