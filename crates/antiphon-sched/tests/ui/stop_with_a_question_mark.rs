//! `stop()` is the whole answer.
use antiphon_sched::{Cx, Event, Loop, receive, stop};

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    events.spawn(|_: &mut Cx<u32>, event| {
        if let Event::Message(_) = event {
            stop()?;
        }
        receive()
    });
}
