//! Actors of two nodes as a user would write them: one locates the other by its name and sends messages.

use std::net::SocketAddr;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use antiphon::dist::Suite;
use antiphon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{ECHO_BYTES, ONE_WAY, ROUND_TRIPS};
use crate::pair;

/// The number of messages after which the sender lets the loop poll its sockets.
const BATCH: u64 = 1_000;

#[derive(Serialize, Deserialize)]
pub(super) enum Echo {
    From(Addr<Bytes>),
    Ask(Bytes),
}
antiphon::wire!(Echo, "bench.echo/1", compact);

/// The protection of the connection.
#[derive(Copy, Clone)]
pub(super) enum ConnectionSecurity {
    Plain,
    Hmac,
    Aead,
    Tls,
}

/// Round trips, one message at a time.
pub(super) fn round_trip(security: ConnectionSecurity) -> Vec<f64> {
    pair::run(
        |shared, report| {
            let mut node = node(security, shared, None);
            report(node.location().addr());
            node.spawn_actor(echo_server());
            node.serve().expect("the node runs");
        },
        |at, shared| {
            let mut node = node(security, shared, Some(at));
            let (results, nanos) = channel();
            node.spawn_actor(echo_client(results));
            node.run().expect("the node runs");
            pair::percentiles(&nanos.recv().expect("the client measured"))
        },
    )
}

pub(super) fn echo_server() -> impl Actor<Echo> {
    let mut back = None;
    actor(move |cx: &mut Cx<Echo>, event| {
        match event {
            Event::Start => cx.register("echo")?,
            Event::Message(Echo::From(addr)) => back = Some(addr),
            Event::Message(Echo::Ask(bytes)) => cx.send(back.ok_or("no address to reply to")?, bytes)?,
            _ => {}
        }
        receive()
    })
}

pub(super) enum EchoClient {
    Found(Result<Addr<Echo>, LocateError>),
    Received(Bytes),
}

pub(super) fn echo_client(results: Sender<Vec<u64>>) -> impl Actor<EchoClient> {
    let mut nanos = Vec::with_capacity(ROUND_TRIPS);
    let mut server = None;
    let mut started = Instant::now();
    actor(move |cx: &mut Cx<EchoClient>, event| match event {
        Event::Start => {
            cx.locate("echo", secs(10), EchoClient::Found);
            receive()
        }
        Event::Message(EchoClient::Found(found)) => {
            let found = found?;
            server = Some(found);
            let adapter = cx.adapter(EchoClient::Received).expect("the limit is not reached");
            cx.send(found, Echo::From(adapter))?;
            started = Instant::now();
            cx.send(found, Echo::Ask(vec![7; ECHO_BYTES].into()))?;
            receive()
        }
        Event::Message(EchoClient::Received(bytes)) => {
            nanos.push(started.elapsed().as_nanos() as u64);
            if nanos.len() == ROUND_TRIPS {
                results.send(std::mem::take(&mut nanos))?;
                return stop();
            }
            started = Instant::now();
            cx.send(server.ok_or("echo is not located yet")?, Echo::Ask(bytes))?;
            receive()
        }
        _ => receive(),
    })
}

#[derive(Serialize, Deserialize)]
pub(super) struct Small(u64, u64, u64);
antiphon::wire!(Small, "bench.small/1", compact);

#[derive(Serialize, Deserialize)]
struct Body(u64, u32, Bytes);
antiphon::wire!(Body, "bench.body/1", compact);

/// A message that counts down to 1.
pub(super) trait Counted: Wire {
    fn make(left: u64) -> Self;
    fn left(&self) -> u64;
}

impl Counted for Small {
    fn make(left: u64) -> Self {
        Self(left, left + 1, left + 2)
    }

    fn left(&self) -> u64 {
        self.0
    }
}

impl Counted for Body {
    fn make(left: u64) -> Self {
        Self(left, 7, vec![left as u8; 48].into())
    }

    fn left(&self) -> u64 {
        self.0
    }
}

/// Messages of three numbers.
pub(super) fn one_way_small(security: ConnectionSecurity) -> Vec<f64> {
    one_way::<Small>(security)
}

/// Messages of two numbers and 48 bytes.
pub(super) fn one_way_body(security: ConnectionSecurity) -> Vec<f64> {
    one_way::<Body>(security)
}

/// Sends messages as fast as possible to an actor that counts them and stops after the last; a `Down` reports that.
fn one_way<M: Counted>(security: ConnectionSecurity) -> Vec<f64> {
    pair::run(
        |shared, report| {
            let mut node = node(security, shared, None);
            report(node.location().addr());
            node.spawn_actor(counter::<M>());
            node.serve().expect("the node runs");
        },
        |at, shared| {
            let mut node = node(security, shared, Some(at));
            let (results, rate) = channel();
            node.spawn_actor(producer::<M>(results));
            node.run().expect("the node runs");
            rate.recv().expect("the producer measured")
        },
    )
}

pub(super) fn counter<M: Counted>() -> impl Actor<M> {
    let mut next = ONE_WAY;
    actor(move |cx: &mut Cx<M>, event| {
        match event {
            Event::Start => cx.register("counter")?,
            Event::Message(message) if message.left() != next => return fail("out of order"),
            Event::Message(_) => next -= 1,
            _ => {}
        }
        if next == 0 { stop() } else { receive() }
    })
}

pub(super) enum Producer<M: 'static> {
    Found(Result<Addr<M>, LocateError>),
    Continue,
}

pub(super) fn producer<M: Counted>(results: Sender<Vec<f64>>) -> impl Actor<Producer<M>> {
    let mut counter = None;
    let mut left = ONE_WAY;
    let mut started = Instant::now();
    actor(move |cx: &mut Cx<Producer<M>>, event| {
        match event {
            Event::Start => cx.locate("counter", secs(10), Producer::Found),
            Event::Message(Producer::Found(found)) => {
                let found = found?;
                cx.monitor(found);
                counter = Some(found);
                started = Instant::now();
                cx.push_self(Producer::Continue);
            }
            Event::Message(Producer::Continue) | Event::Writable { .. } => {
                let to = counter.ok_or("the counter is not located yet")?;
                for _ in 0..BATCH.min(left) {
                    match cx.try_send(to, M::make(left)) {
                        Ok(()) => left -= 1,
                        // `Event::Writable` follows.
                        Err(SendError::Busy(_)) => return receive(),
                        Err(error) => Err(error)?,
                    }
                }
                if left > 0 {
                    cx.push_self(Producer::Continue);
                }
            }
            Event::Down(Down { reason: ExitReason::Done(_), .. }) => {
                results.send(pair::rate(ONE_WAY, started))?;
                return stop();
            }
            Event::Down(Down { reason, .. }) => return fail(reason),
            _ => {}
        }
        receive()
    })
}

fn node(security: ConnectionSecurity, shared: pair::Shared, peer: Option<SocketAddr>) -> Node {
    antiphon::log_to_stderr();
    let config = Config {
        secret: Some(shared.secret.into()),
        discover_peers: false,
        peers: peer.into_iter().map(PeerAt::from).collect(),
        ..Config::default()
    };
    let config = match security {
        ConnectionSecurity::Plain => Config { secret: None, ..config },
        ConnectionSecurity::Hmac => Config { suites: Some(vec![Suite::Hmac]), ..config },
        ConnectionSecurity::Aead => config,
        ConnectionSecurity::Tls => Config { certfile: Some(shared.pem), ..config },
    };
    Node::new(config).expect("loopback has a free port")
}
