//! The constructor of a reply's message takes a `Result`.
use antiphon_sched::{Addr, Cx, Event, Loop, ReplyTo, receive, secs};

enum Client {
    Answer(u32),
}

fn main() {
    let mut events = Loop::new(Default::default()).unwrap();
    let server: Addr<ReplyTo<u32>> = events.spawn(|_: &mut Cx<ReplyTo<u32>>, _| receive());
    events.spawn(move |cx: &mut Cx<Client>, event| {
        if let Event::Start = event {
            cx.ask(server, secs(1), |reply| reply, Client::Answer);
        }
        receive()
    });
}
