//! A closure behind `impl Actor<M>` needs `actor(..)` as well.
use antiphon_sched::{Actor, Event, receive};

fn quiet() -> impl Actor<u32> {
    |_cx, _event: Event<u32>| receive()
}

fn main() {
    quiet();
}
