//! The states of services, by their types. The node keeps them, and knows none of the types.
//!
//! Invariant: each type has at most one state on a node.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;

use super::Counts;

/// What a service keeps on a node, for all actors of the node that use the service.
pub(crate) trait ServiceState: Any {
    /// Adds what the state counts to the counts of the node.
    fn add_counts(&self, _counts: &mut Counts) {}
}

#[derive(Default)]
pub(super) struct ServiceStates {
    by_type: BTreeMap<TypeId, Box<dyn ServiceState>>,
}

impl ServiceStates {
    /// The state of a service; made at the first call.
    pub(super) fn get_mut<S: ServiceState + Default>(&mut self) -> &mut S {
        let state = self.by_type.entry(TypeId::of::<S>()).or_insert_with(|| Box::new(S::default()));
        let state: &mut dyn Any = &mut **state;
        state.downcast_mut().expect("each state is stored under its own type")
    }

    /// Adds what the states count.
    pub(super) fn add_counts(&self, counts: &mut Counts) {
        self.by_type.values().for_each(|state| state.add_counts(counts));
    }
}

impl fmt::Debug for ServiceStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceStates({})", self.by_type.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Relays(usize);

    impl ServiceState for Relays {
        fn add_counts(&self, counts: &mut Counts) {
            counts.channel_relays += self.0;
        }
    }

    #[derive(Default)]
    struct Uncounted(usize);

    impl ServiceState for Uncounted {}

    #[test]
    fn state_keeps_its_value_and_counts() {
        let mut states = ServiceStates::default();
        states.get_mut::<Relays>().0 = 3;
        states.get_mut::<Uncounted>().0 = 7;
        let mut counts = Counts { channel_relays: 1, ..Counts::default() };
        states.add_counts(&mut counts);
        assert_eq!((counts.channel_relays, states.get_mut::<Uncounted>().0), (4, 7));
    }
}
