//! Files and deletions that wait: for a busy blocking pool, for nodes without a connection, for nodes that do not run.

mod common;

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use antiphon_dist::{Config, DeleteError, DialError, FileError, FileOptions, Location, NetCx, Stored};
use antiphon_sched::{Cx, Event, JobPool, millis, receive, stop};
use common::{Net, PATIENCE, TestNode, recv, report, wait_for};
use tempfile::TempDir;

/// The threads for files of a node.
const FILE_THREADS_MAX: usize = 8;

/// A node that has sent a file `f`, and the node that has received it.
struct NodesWithFile {
    sender: TestNode,
    receiver: TestNode,
    /// The folder of the files to send.
    source: TempDir,
    /// The `dest_path` of the receiver.
    dest: TempDir,
}

impl NodesWithFile {
    fn new(adjust: impl Fn(Config) -> Config) -> Self {
        let net = Net::new();
        let [source, dest] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary folder is created"));
        let dest_path = Some(dest.path().to_owned());
        let receiver = TestNode::start(adjust(Config { dest_path, ..net.static_config("receiver", &[]) }));
        let sender = TestNode::start(adjust(net.static_config("sender", &[])));
        let nodes = Self { sender, receiver, source, dest };
        assert_eq!(nodes.send("f"), Ok(Stored::New));
        nodes
    }

    #[track_caller]
    fn send(&self, name: &str) -> Result<Stored, FileError> {
        let file = self.source.path().join(name);
        fs::write(&file, vec![7; 300_000]).expect("the file is writable");
        recv(&send(&self.sender, self.receiver.location, &file))
    }

    fn has(&self, name: &str) -> bool {
        self.dest.path().join(name).exists()
    }

    /// Occupies all threads for files of the receiver until the returned senders are dropped.
    fn occupy_pool(&self) -> Vec<Sender<()>> {
        let (holds, waits): (Vec<_>, Vec<_>) = (0..FILE_THREADS_MAX).map(|_| channel::<()>()).unzip();
        let (sender, started) = channel();
        for wait in waits {
            let sender = sender.clone();
            let mut job = Some(move || {
                report(&sender, ());
                // Blocks until the other end is dropped.
                wait.recv().is_err()
            });
            self.receiver.spawn(move |cx: &mut Cx<()>, _| {
                if let Some(job) = job.take() {
                    cx.blocking_on(JobPool::Files, job, |_| ());
                    return receive();
                }
                stop()
            });
        }
        holds.iter().for_each(|_| recv(&started));
        holds
    }
}

fn send(from: &TestNode, to: Location, file: &Path) -> Receiver<Result<Stored, FileError>> {
    let (sender, results) = channel();
    let file = file.to_owned();
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(to, &file, FileOptions::default(), PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

fn delete(from: &TestNode, at: Location, timeout: Duration) -> Receiver<Result<(), DeleteError>> {
    let (sender, results) = channel();
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(at, "f", "", timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            report(&sender, done);
            stop()
        }
        _ => receive(),
    });
    results
}

#[test]
fn deletion_without_node_at_location_fails() {
    let node = Net::new().static_node("sender", &[]);
    let location = "127.0.0.1:9".parse().expect("the location is valid");
    assert_eq!(
        recv(&delete(&node, location, millis(300))),
        Err(DeleteError::Unreachable(DialError::ConnectionRefused))
    );
}

#[test]
fn deletion_timed_out_is_done_later() {
    let nodes = NodesWithFile::new(|config| config);
    let occupied = nodes.occupy_pool();
    let results = delete(&nodes.sender, nodes.receiver.location, millis(300));
    assert_eq!(recv(&results), Err(DeleteError::TimedOut));
    assert!(nodes.has("f"));
    drop(occupied);
    wait_for("the deletion", || (!nodes.has("f")).then_some(()));
    let again = delete(&nodes.sender, nodes.receiver.location, PATIENCE);
    assert_eq!(recv(&again), Err(DeleteError::NotFound));
}

#[test]
fn deletion_fails_when_node_stops() {
    let nodes = NodesWithFile::new(|config| config);
    let _occupied = nodes.occupy_pool();
    let results = delete(&nodes.sender, nodes.receiver.location, PATIENCE);
    nodes.sender.wait_for_counts("the request", |counts| counts.replies == 1);
    let NodesWithFile { sender: _sender, receiver, source: _source, dest: _dest } = nodes;
    receiver.stop();
    assert_eq!(recv(&results), Err(DeleteError::NodeLost));
}

#[test]
fn deletion_ends_with_its_caller() {
    let nodes = NodesWithFile::new(|config| config);
    let _occupied = nodes.occupy_pool();
    let at = nodes.receiver.location;
    let caller = nodes.sender.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            cx.del_file(at, "f", "", 3 * PATIENCE, |_| ());
            return receive();
        }
        stop()
    });
    nodes.sender.wait_for_counts("the request", |counts| counts.replies == 1);
    nodes.sender.handle.send(caller, ()).expect("the node runs");
    // The blocking pool of the receiver is still occupied.
    nodes.sender.wait_for_counts("the end of the request", |counts| counts.replies == 0);
    assert!(nodes.has("f"));
}

#[test]
fn transfer_and_deletion_reconnect_idle_nodes() {
    let nodes = NodesWithFile::new(|config| Config { stream_send: false, ..config });
    let wait_until_idle = || {
        for node in [&nodes.sender, &nodes.receiver] {
            node.wait_for_counts("no connection", |counts| counts.connections == 0);
        }
    };
    wait_until_idle();
    assert_eq!(nodes.send("g"), Ok(Stored::New));
    assert_eq!(fs::read(nodes.dest.path().join("g")).expect("the file exists"), vec![7; 300_000]);
    wait_until_idle();
    assert_eq!(recv(&delete(&nodes.sender, nodes.receiver.location, PATIENCE)), Ok(()));
    assert!(!nodes.has("f"));
}
