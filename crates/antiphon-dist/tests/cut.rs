//! Connections that are cut again and again: nothing is lost, repeated or out of order.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use antiphon_dist::node::NodeCore;
use antiphon_dist::{DeliverError, NetCx, Node};
use antiphon_sched::{Addr, Cx, Event, Step, millis, receive, secs};
use common::certs::Certs;
use common::process::{self, Process};
use common::{Net, heard, tell_test, wait_for};
use serde::{Deserialize, Serialize};

const COUNT: u64 = 10_000;
const AT_ONCE: u64 = 10;
/// Every 50 ms, unevenly: a timer that is a multiple of that must meet a cut connection too.
const CUT_AFTER: [Duration; 3] =
    [Duration::from_millis(45), Duration::from_millis(55), Duration::from_millis(50)];
const DELAY: Duration = Duration::from_millis(10);

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
            let ear = cx.me_as(Own::Line);
            cx.spawn(move |cx: &mut Cx<Line>, event| {
                match event {
                    Event::Start => cx.register(name)?,
                    Event::Message(line) => cx.send(ear, line)?,
                    _ => {}
                }
                receive()
            });
        }
        let step = end.step(cx, event).inspect_err(|why| say(format!("fault: {why:?}")));
        if end.is_done() && !std::mem::replace(&mut is_told, true) {
            let cuts = cx.door().outside::<NodeCore>().map(|core| core.counts().cut_with_unacked);
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

/// Carries bytes between whoever dials it and one server, and cuts every connection after a while.
struct Proxy {
    at: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    connections: AtomicU64,
    is_closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    fn start(server: SocketAddr, cut_after: [Duration; 3]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let carrying = shared.clone();
        std::thread::spawn(move || {
            for dialler in listener.incoming().map_while(Result::ok) {
                if carrying.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                // A way so long that a side which is too impatient would look for another.
                std::thread::sleep(DELAY);
                carrying.carry(&dialler, &TcpStream::connect(server).expect("the server listens"));
            }
        });
        let cutting = shared.clone();
        std::thread::spawn(move || {
            for pause in cut_after.iter().cycle() {
                if cutting.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(*pause);
                cutting.cut();
            }
        });
        Self { at, shared }
    }

    fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        // Wakes whoever accepts.
        drop(TcpStream::connect(self.at));
        self.shared.cut();
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, one: &TcpStream, other: &TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
        for (mut from, mut to) in [(copy(one), copy(other)), (copy(other), copy(one))] {
            let shared = self.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                // The other side hears of it; it may have gone first.
                drop(to.shutdown(Shutdown::Both));
            });
        }
        self.open.lock().expect("nobody panics").extend([copy(one), copy(other)]);
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("nobody panics").drain(..) {
            // It may be closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

#[test]
fn a_connection_that_is_cut_all_the_time_loses_repeats_and_swaps_nothing() {
    cut_all_the_time(&Net { udp_port: 0, ..Net::new() }, CUT_AFTER, 50);
}

#[test]
fn neither_does_one_with_tls_which_resumes_its_session_over_new_tls() {
    let certs = Certs::new();
    let tls = Some(certs.node("shared").both);
    // Its handshake has one round trip more, and signatures: it must come to its end between two cuts.
    cut_all_the_time(&Net { udp_port: 0, tls, ..Net::new() }, CUT_AFTER.map(|pause| pause * 3), 10);
}

/// One at a time: each would have the other's handshakes cut short.
static ALONE: Mutex<()> = Mutex::new(());

fn cut_all_the_time(net: &Net, cut_after: [Duration; 3], cuts_least: u64) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let there = Process::start(net, "there");
    let proxy = Proxy::start(there.location().addr(), cut_after);
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
    let connections = proxy.shared.connections.load(Ordering::SeqCst);
    println!("{lasted:?}: {connections} connections, cut with frames unacked: {near} here, {far} there");
    assert!(lasted >= secs(5), "all was sent within {lasted:?}");
    assert!(near.max(far) >= cuts_least, "{near} and {far} cuts hit frames that were not acknowledged");

    // A connection beside the proxy would not have been cut, and would still be there now.
    proxy.close();
    wait_for("the last connection to be gone", || (here.counts().connections == 0).then_some(()));
    assert!(proxy.shared.bytes.load(Ordering::SeqCst) > 2 * COUNT * 20);
}
