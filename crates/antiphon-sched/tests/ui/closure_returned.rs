//! A closure that is returned as `impl Actor<M>` needs `actor(..)` around it.
use antiphon_sched::{Actor, Event, receive};

fn idle_actor() -> impl Actor<u32> {
    |_cx, _event: Event<u32>| receive()
}

fn main() {
    idle_actor();
}
