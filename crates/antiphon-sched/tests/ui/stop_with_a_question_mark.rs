//! `stop()` is the whole result of a step.
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
