//! A type without a wire name cannot be an exit value.
use antiphon_sched::{Cx, Event, Loop, exit};

struct Plain;

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|_: &mut Cx<u32>, _: Event<u32>| exit(Plain));
}
