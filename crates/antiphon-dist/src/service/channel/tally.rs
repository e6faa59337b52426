//! Sums by key.
//!
//! Invariant: `total` is the sum of all entries. A key without usage has no entry, so the bound of what is counted also
//! bounds the table.

use std::collections::BTreeMap;
use std::ops::{AddAssign, SubAssign};

/// How much of something each key has, such as a node. `N` is a number, or several numbers together.
#[derive(Debug)]
pub(crate) struct Tally<K, N = usize> {
    by_key: BTreeMap<K, N>,
    total: N,
}

impl<K: Ord, N: Default> Default for Tally<K, N> {
    fn default() -> Self {
        Self { by_key: BTreeMap::new(), total: N::default() }
    }
}

impl<K: Ord, N: Copy + Default + PartialEq + AddAssign + SubAssign> Tally<K, N> {
    /// How much one key has.
    pub(crate) fn of(&self, key: &K) -> N {
        self.by_key.get(key).copied().unwrap_or_default()
    }

    /// How much all keys have together.
    pub(crate) fn all(&self) -> N {
        self.total
    }

    /// The number of keys with usage.
    pub(crate) fn keys(&self) -> usize {
        self.by_key.len()
    }

    /// The keys with usage, in order.
    pub(crate) fn iter_keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }

    pub(crate) fn add(&mut self, key: K, more: N) {
        self.total += more;
        *self.by_key.entry(key).or_default() += more;
    }

    /// Subtracts usage that was added before.
    pub(crate) fn take(&mut self, key: &K, less: N) {
        let Some(usage) = self.by_key.get_mut(key) else { return };
        self.total -= less;
        *usage -= less;
        if *usage == N::default() {
            self.by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_of_zero_removes_key_keeps_total() {
        let mut usage = Tally::default();
        usage.add("a", 2);
        usage.add("b", 3);
        usage.take(&"a", 1);
        assert_eq!((usage.of(&"a"), usage.of(&"b"), usage.of(&"c"), usage.all()), (1, 3, 0, 4));
        usage.take(&"a", 1);
        usage.take(&"c", 1);
        assert_eq!((usage.keys(), usage.all()), (1, 3));
    }
}
