//! Connections that are cut again and again: messages arrive once and in order.

mod common;

use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use antiphon_dist::node::NodeCore;
use antiphon_dist::{DeliverError, NetCx, Node};
use antiphon_sched::{Addr, Cx, Event, Step, millis, receive, secs};
use common::certs::Certs;
use common::harness::{self, tests};
use common::process::{self, Process, Role};
use common::proxy::Proxy;
use common::{Net, recv, report, wait_for};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    harness::run(
        run_number_actor,
        tests![connection_cut_repeatedly_loses_no_message, tls_connection_cut_repeatedly_loses_no_message,],
    )
}

/// The number of messages in each direction.
const COUNT: u64 = 10_000;
const AT_ONCE: u64 = 10;

/// A message between the number actors.
#[derive(Serialize, Deserialize)]
enum Line {
    /// Send the numbers to this actor.
    Begin(Addr<Line>),
    Number(u64),
}
antiphon_sched::wire!(Line, "test.line/1");

/// The events of a number actor.
enum Own {
    Line(Line),
    Next,
    Receipt(Result<(), DeliverError>),
}

/// Sends `COUNT` numbers, `AT_ONCE` at a time and every tenth with a receipt, and receives as many.
#[derive(Default)]
struct NumberActor {
    to: Option<Addr<Line>>,
    sent: u64,
    receipts: u64,
    received: u64,
}

impl NumberActor {
    fn step(&mut self, cx: &mut Cx<'_, Own>, event: Event<Own>) -> Step<Own> {
        match event {
            Event::Message(Own::Line(Line::Begin(to))) => {
                self.to = Some(to);
                cx.every(millis(5), || Own::Next).expect("the limit is not reached");
            }
            Event::Message(Own::Line(Line::Number(number))) => {
                if number != self.received {
                    return antiphon_sched::fail(format!(
                        "received {number}, and {} was next",
                        self.received
                    ));
                }
                self.received += 1;
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
        let to = self.to.ok_or("no receiver of the numbers")?;
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
        self.sent == COUNT && self.receipts == COUNT / 10 && self.received == COUNT
    }
}

/// A number actor that registers `name`. When it is done, it reports how many cuts hit unacknowledged frames; or it reports
/// its failure.
fn number_actor(
    name: &'static str,
    mut report: impl FnMut(String) + Send + 'static,
) -> impl FnMut(&mut Cx<'_, Own>, Event<Own>) -> Step<Own> + Send {
    let mut state = NumberActor::default();
    let mut is_reported = false;
    move |cx, event| {
        if matches!(event, Event::Start) {
            let adapter = cx.adapter(Own::Line).expect("the limit is not reached");
            cx.spawn(move |cx: &mut Cx<Line>, event| {
                match event {
                    Event::Start => cx.register(name)?,
                    Event::Message(line) => cx.send(adapter, line)?,
                    _ => {}
                }
                receive()
            });
        }
        let step = state.step(cx, event).inspect_err(|reason| report(format!("failed: {reason:?}")));
        if state.is_done() && !std::mem::replace(&mut is_reported, true) {
            let cuts = cx.loop_ref().transport::<NodeCore>().map(|core| core.counts().cut_with_unacked);
            report(format!("done {}", cuts.unwrap_or_default()));
        }
        step
    }
}

/// The child process: a node with the other number actor.
fn run_number_actor(role: &Role) {
    let mut node = Node::new(role.config()).expect("a node can start");
    process::send_line(node.location());
    node.spawn(number_actor("there", process::send_line));
    let ran = node.run_with(|handle| {
        process::commands().iter().for_each(drop);
        handle.stop();
    });
    ran.expect("the node runs");
}

fn connection_cut_repeatedly_loses_no_message() {
    exchange_over_cuts(&Net { udp_port: 0, ..Net::new() }, 1, 50);
}

/// The session resumes over new TLS connections.
fn tls_connection_cut_repeatedly_loses_no_message() {
    let certs = Certs::new();
    let tls = Some(certs.node("shared").both);
    // The TLS handshake has one round trip more, and signatures; it must complete between two cuts.
    exchange_over_cuts(&Net { udp_port: 0, tls, ..Net::new() }, 3, 10);
}

/// Held by the test that runs: a second one would slow down the handshakes, and more of them would be cut.
static ALONE: Mutex<()> = Mutex::new(());

fn exchange_over_cuts(net: &Net, slower: u32, cuts_least: u64) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let there = Process::start(net, "there");
    let proxy = Proxy::start_slower(there.location().addr(), slower);
    let here = net.static_node("here", &[proxy.at.into()]);
    let (sender, results) = channel();
    let begun = Instant::now();
    here.spawn(number_actor("here", move |line| report(&sender, line)));
    let far: Addr<Line> = here.find("there");
    let near: Addr<Line> = here.find("here");
    here.handle.send(near, Line::Begin(far)).expect("the node runs");
    here.handle.send(far, Line::Begin(near)).expect("the node runs");

    let (near, far) = (recv(&results), there.line());
    let lasted = begun.elapsed();
    let cuts = |line: &str| line.strip_prefix("done ").and_then(|cuts| cuts.parse::<u64>().ok());
    let (near, far) = (cuts(&near).expect(&near), cuts(&far).expect(&far));
    let connections = proxy.connections();
    println!(
        "{lasted:?}: {connections} connections; cuts with unacknowledged frames: {near} here, {far} there"
    );
    assert!(lasted >= secs(5), "the exchange took only {lasted:?}");
    assert!(near.max(far) >= cuts_least, "{near} and {far} cuts hit frames that were not acknowledged");

    // A connection past the proxy would not have been cut, and would still be open.
    proxy.close();
    wait_for("the end of the last connection", || (here.counts().connections == 0).then_some(()));
    assert!(proxy.bytes() > 2 * COUNT * 20);
}
