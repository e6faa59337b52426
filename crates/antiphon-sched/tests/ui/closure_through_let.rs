//! A closure that is first stored in a variable needs `actor(..)`, which gives it the right lifetimes.
use antiphon_sched::{Event, Loop, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    let step = |_cx, _event: Event<u32>| receive();
    events.spawn(step);
}
