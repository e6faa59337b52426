//! A file transfer as a user would write it, and messages beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use antiphon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Files, folder_of};
use crate::pair;

const ECHO_BYTES: usize = 64;
/// Round trips of a run without a file.
const ALONE: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
enum Echo {
    From(Addr<Bytes>),
    Ask(Bytes),
}
antiphon::wire!(Echo, "bench.files.echo/1", compact);

/// The throughput of a file transfer.
pub(super) fn transfer() -> Vec<f64> {
    pair::run(serve, |at, shared| {
        let files = Files::new(at);
        let (results, seconds) = channel();
        let mut node = node(&shared.secret, Some(at), None);
        let source = files.source();
        let mut started = Instant::now();
        node.spawn(move |cx, event| match event {
            Event::Start => {
                cx.peer(at, secs(10), |_| None);
                receive()
            }
            Event::Message(None) => {
                started = Instant::now();
                cx.send_file(at.into(), &source, FileOptions::default(), PATIENCE, Some);
                receive()
            }
            Event::Message(Some(stored)) => {
                stored?;
                results.send(started.elapsed().as_secs_f64())?;
                stop()
            }
            _ => receive(),
        });
        node.run().expect("the node runs");
        files.mib_a_second(seconds.recv().expect("the file was stored"))
    })
}

/// Round trips of messages while a file is sent.
pub(super) fn round_trips_beside() -> Vec<f64> {
    pair::run(serve, |at, shared| {
        let files = Files::new(at);
        let nanos = round_trips(&shared.secret, at, Some(files.source()));
        pair::percentiles(&nanos)
    })
}

/// Round trips of messages without a file.
pub(super) fn round_trips_alone() -> Vec<f64> {
    pair::run(serve, |at, shared| {
        let nanos = round_trips(&shared.secret, at, None);
        std::fs::remove_dir_all(folder_of(at)).expect("the folder can be removed");
        pair::percentiles(&nanos)
    })
}

/// Receives files, and sends messages back.
fn serve(shared: pair::Shared, report: &dyn Fn(SocketAddr)) {
    // The name of the folder contains the port, so the port is chosen before the node is made.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let at = free.expect("loopback has a free port");
    let mut node = node(&shared.secret, None, Some(at));
    report(at);
    let mut back = None;
    node.spawn(move |cx, event| {
        match event {
            Event::Start => cx.register("echo")?,
            Event::Message(Echo::From(addr)) => back = Some(addr),
            Event::Message(Echo::Ask(bytes)) => cx.send(back.ok_or("no address to reply to")?, bytes)?,
            _ => {}
        }
        receive()
    });
    node.serve().expect("the node runs");
}

enum Client {
    Found(Result<Addr<Echo>, LocateError>),
    Received(Bytes),
    Stored(Result<Stored, FileError>),
}

fn round_trips(secret: &str, at: SocketAddr, file: Option<PathBuf>) -> Vec<u64> {
    let mut node = node(secret, Some(at), None);
    let (results, nanos) = channel();
    node.spawn_actor(client(results, at, file));
    node.run().expect("the node runs");
    nanos.recv().expect("the client measured")
}

fn client(results: Sender<Vec<u64>>, at: SocketAddr, file: Option<PathBuf>) -> impl Actor<Client> {
    let mut nanos = Vec::new();
    let mut echo = None;
    let mut started = Instant::now();
    actor(move |cx: &mut Cx<Client>, event| {
        match event {
            Event::Start => cx.locate("echo", secs(10), Client::Found),
            Event::Message(Client::Found(found)) => {
                let found = found?;
                echo = Some(found);
                let adapter = cx.adapter(Client::Received).expect("the limit is not reached");
                cx.send(found, Echo::From(adapter))?;
                if let Some(file) = &file {
                    cx.send_file(at.into(), file, FileOptions::default(), PATIENCE, Client::Stored);
                }
                started = Instant::now();
                cx.send(found, Echo::Ask(vec![7; ECHO_BYTES].into()))?;
            }
            Event::Message(Client::Received(bytes)) => {
                nanos.push(started.elapsed().as_nanos() as u64);
                if file.is_none() && nanos.len() == ALONE {
                    results.send(std::mem::take(&mut nanos))?;
                    return stop();
                }
                started = Instant::now();
                cx.send(echo.ok_or("echo is not located yet")?, Echo::Ask(bytes))?;
            }
            Event::Message(Client::Stored(stored)) => {
                stored?;
                results.send(std::mem::take(&mut nanos))?;
                return stop();
            }
            _ => {}
        }
        receive()
    })
}

/// Makes a node that dials `peer`; with `at` it listens there and receives files.
fn node(secret: &str, peer: Option<SocketAddr>, at: Option<SocketAddr>) -> Node {
    antiphon::log_to_stderr();
    Node::new(Config {
        secret: Some(secret.into()),
        discover_peers: false,
        peers: peer.into_iter().map(PeerAt::from).collect(),
        tcp_port: at.map_or(0, |at| at.port()),
        dest_path: at.map(folder_of),
        ..Config::default()
    })
    .expect("loopback has a free port")
}
