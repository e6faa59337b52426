//! Connections that are cut again and again: nothing is lost, repeated or out of order.

mod common;

use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use antiphon_dist::node::NodeCore;
use antiphon_dist::{DeliverError, NetCx, Node};
use antiphon_sched::{Addr, Cx, Event, Step, millis, receive, secs};
use common::certs::Certs;
use common::process::{self, Process};
use common::proxy::Proxy;
use common::{Net, heard, tell_test, wait_for};
use serde::{Deserialize, Serialize};

const COUNT: u64 = 10_000;
const AT_ONCE: u64 = 10;

/// What both ends take.
#[derive(Serialize, Deserialize)]
enum Line {
    /// Send numbers to this actor.
    Begin(Addr<Line>),
    Number(u64),
}
antiphon_sched::wire!(Line, "test.line/1");

/// What an end takes besides, from itself.
enum Own {
    Line(Line),
    Next,
    Receipt(Result<(), DeliverError>),
}

/// One end: sends `COUNT` numbers in small lots, every tenth with a receipt, and takes as many. Tells when it has
/// sent all, has all receipts and was sent all.
struct End {
    to: Option<Addr<Line>>,
    sent: u64,
    receipts: u64,
    taken: u64,
}

impl End {
    fn step(&mut self, cx: &mut Cx<'_, Own>, event: Event<Own>) -> Step<Own> {
        match event {
            Event::Message(Own::Line(Line::Begin(to))) => {
                self.to = Some(to);
                cx.every(millis(5), || Own::Next);
            }
            Event::Message(Own::Line(Line::Number(number))) => {
                if number != self.taken {
                    return antiphon_sched::fail(format!("{number} came where {} was next", self.taken));
                }
                self.taken += 1;
            }
            Event::Message(Own::Next) => self.send(cx)?,
            Event::Message(Own::Receipt(receipt)) => {
                receipt?;
                self.receipts += 1;
            }
            _ => {}
        }
        receive()
    }

    fn send(&mut self, cx: &mut Cx<'_, Own>) -> Result<(), antiphon_sched::Failure> {
        let to = self.to.ok_or("nobody to send to")?;
        for _ in 0..AT_ONCE.min(COUNT - self.sent) {
            let line = Line::Number(self.sent);
            self.sent += 1;
            if self.sent.is_multiple_of(10) {
                cx.deliver(to, line, secs(60), Own::Receipt);
            } else {
                cx.send(to, line)?;
            }
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.sent == COUNT && self.receipts == COUNT / 10 && self.taken == COUNT
    }
}

/// Starts an end that registers as `name`; what it comes to is told by `say`, with the cuts that its node saw.
fn end(
    name: &'static str,
    mut say: impl FnMut(String) + Send + 'static,
) -> impl FnMut(&mut Cx<'_, Own>, Event<Own>) -> Step<Own> + Send {
    let mut end = End { to: None, sent: 0, receipts: 0, taken: 0 };
    let mut is_told = false;
    move |cx, event| {
        if matches!(event, Event::Start) {
            let adapter = cx.adapter(Own::Line);
            cx.spawn(move |cx: &mut Cx<Line>, event| {
                match event {
                    Event::Start => cx.register(name)?,
                    Event::Message(line) => cx.send(adapter, line)?,
                    _ => {}
                }
                receive()
            });
        }
        let step = end.step(cx, event).inspect_err(|reason| say(format!("fault: {reason:?}")));
        if end.is_done() && !std::mem::replace(&mut is_told, true) {
            let cuts = cx.loop_ref().transport::<NodeCore>().map(|core| core.counts().cut_with_unacked);
            say(format!("done {}", cuts.unwrap_or_default()));
        }
        step
    }
}

#[test]
#[ignore = "a role of the other tests, not one by itself"]
fn the_other_process() {
    let Some(role) = process::role() else { return };
    let mut node = Node::new(role.config()).expect("a node can start");
    process::say(node.location());
    node.spawn(end("there", process::say));
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

#[test]
fn a_connection_that_is_cut_all_the_time_loses_repeats_and_swaps_nothing() {
    cut_all_the_time(&Net { udp_port: 0, ..Net::new() }, 1, 50);
}

#[test]
fn neither_does_one_with_tls_which_resumes_its_session_over_new_tls() {
    let certs = Certs::new();
    let tls = Some(certs.node("shared").both);
    // Its handshake has one round trip more, and signatures: it must come to its end between two cuts.
    cut_all_the_time(&Net { udp_port: 0, tls, ..Net::new() }, 3, 10);
}

/// One at a time: each would have the other's handshakes cut short.
static ALONE: Mutex<()> = Mutex::new(());

fn cut_all_the_time(net: &Net, slower: u32, cuts_least: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let there = Process::start(net, "there");
    let proxy = Proxy::start_slower(there.location().addr(), slower);
    let here = net.quiet_node("here", &[proxy.at.into()]);
    let (tell, told) = channel();
    let begun = Instant::now();
    here.spawn(end("here", move |line| tell_test(&tell, line)));
    let far: Addr<Line> = here.find("there");
    let near: Addr<Line> = here.find("here");
    here.handle.send(near, Line::Begin(far)).expect("the node runs");
    here.handle.send(far, Line::Begin(near)).expect("the node runs");

    let (near, far) = (heard(&told), there.line());
    let lasted = begun.elapsed();
    let cuts = |line: &str| line.strip_prefix("done ").and_then(|cuts| cuts.parse::<u64>().ok());
    let (near, far) = (cuts(&near).expect(&near), cuts(&far).expect(&far));
    let connections = proxy.connections();
    println!("{lasted:?}: {connections} connections, cut with frames unacked: {near} here, {far} there");
    assert!(lasted >= secs(5), "all was sent within {lasted:?}");
    assert!(near.max(far) >= cuts_least, "{near} and {far} cuts hit frames that were not acknowledged");

    // A connection beside the proxy would not have been cut, and would still be there now.
    proxy.close();
    wait_for("the last connection to be gone", || (here.counts().connections == 0).then_some(()));
    assert!(proxy.bytes() > 2 * COUNT * 20);
}
