//! The message has another type than the address takes.
use antiphon_sched::{Addr, Cx, Loop, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    let printer: Addr<String> = events.spawn(|_: &mut Cx<String>, _| receive());
    events.send(printer, "hello").unwrap();
}
