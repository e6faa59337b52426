//! A closure that does not go straight to `spawn` needs `actor(..)` to give it its shape.
use antiphon_sched::{Event, Loop, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    let step = |_cx, _event: Event<u32>| receive();
    events.spawn(step);
}
