//! The hint for a type of another crate names a way that works: a type of one's own around it.
use antiphon_sched::{Cx, Event, Loop, exit};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|_: &mut Cx<u32>, _: Event<u32>| exit(std::num::NonZeroU8::MIN));
}
