//! The broken promises that the actors of a test find.
//!
//! The loop catches the panic of an actor, so an assertion inside an actor would not fail the test.

/// Collects broken promises, until the test asserts that there are none.
#[derive(Default)]
pub(crate) struct Violations(Vec<String>);

impl Violations {
    /// Adds a violation if `holds` is false.
    pub(crate) fn check(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        if !holds {
            self.0.push(violation());
        }
    }

    /// Checks that no actor found a broken promise.
    ///
    /// # Panics
    /// If one did.
    pub(crate) fn assert_none(&self) {
        assert_eq!(self.0, Vec::<String>::new(), "promises were broken");
    }
}
