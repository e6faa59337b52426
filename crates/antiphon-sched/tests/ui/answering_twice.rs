//! A `ReplyTo` can be used once.
use antiphon_sched::{Cx, Event, Loop, ReplyTo, receive};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|cx: &mut Cx<ReplyTo<u32>>, event| {
        if let Event::Message(reply) = event {
            cx.reply(reply, 5);
            cx.reply(reply, 6);
        }
        receive()
    });
}
