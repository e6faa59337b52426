//! What each of several has of something that is bounded.
//!
//! Invariant: `all` is the sum of the shares; who has nothing has no entry, so that the table is as large as its bound allows.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

/// The shares of nodes, or of whatever is told apart by a `K`: in numbers, or in amounts of several kinds.
#[derive(Debug)]
pub(crate) struct QuotaUsage<K, N = usize> {
    of: BTreeMap<K, N>,
    all: N,
}

impl<K: Ord, N: Default> Default for QuotaUsage<K, N> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), all: N::default() }
    }
}

impl<K: Ord, N: Copy + Default + PartialEq + AddAssign + SubAssign> QuotaUsage<K, N> {
    pub(crate) fn of(&self, whose: &K) -> N {
        self.of.get(whose).copied().unwrap_or_default()
    }

    pub(crate) fn all(&self) -> N {
        self.all
    }

    pub(crate) fn add(&mut self, whose: K, more: N) {
        self.all += more;
        *self.of.entry(whose).or_default() += more;
    }

    /// Takes away what was added before.
    pub(crate) fn take(&mut self, whose: &K, less: N) {
        let Some(has) = self.of.get_mut(whose) else { return };
        self.all -= less;
        *has -= less;
        if *has == N::default() {
            self.of.remove(whose);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_left_is_forgotten_and_the_sum_stays_right() {
        let mut shares = QuotaUsage::default();
        shares.add("a", 2);
        shares.add("b", 3);
        shares.take(&"a", 1);
        assert_eq!((shares.of(&"a"), shares.of(&"b"), shares.of(&"c"), shares.all()), (1, 3, 0, 4));
        shares.take(&"a", 1);
        shares.take(&"c", 1);
        assert_eq!((shares.of.len(), shares.all()), (1, 3));
    }
}
