//! A `ReplyTo` is not a target of `send`.
use antiphon_sched::{Cx, Event, Loop, ReplyTo, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.send(reply, 5);
        }
        receive()
    });
}
