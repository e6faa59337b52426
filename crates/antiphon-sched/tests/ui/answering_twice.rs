//! A reply answers once.
use antiphon_sched::{Cx, Event, Loop, Reply, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|cx: &mut Cx<Reply<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.answer(reply, 5);
            cx.answer(reply, 6);
        }
        receive()
    });
}
