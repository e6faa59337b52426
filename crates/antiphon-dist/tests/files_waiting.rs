//! Files and deletions that have to wait: for a disk that is busy, for nodes that rest, for nodes that are not there.

mod common;

use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use antiphon_dist::{Config, DeleteError, FileError, FileOptions, Location, NetCx, Stored};
use antiphon_sched::{Cx, Event, LoopConfig, millis, receive, stop};
use common::{Net, PATIENCE, TestNode, heard, tell_test, wait_for};
use tempfile::TempDir;

/// A node that has received a file `f`, and one that has sent it.
struct Pair {
    here: TestNode,
    there: TestNode,
    own: TempDir,
    dest: TempDir,
}

impl Pair {
    fn new(adjust: impl Fn(Config) -> Config) -> Self {
        let net = Net::new();
        let [own, dest] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let dest_path = Some(dest.path().to_owned());
        let there = TestNode::start(adjust(Config { dest_path, ..net.quiet("there", &[]) }));
        let here = TestNode::start(adjust(net.quiet("here", &[])));
        let pair = Self { here, there, own, dest };
        assert_eq!(pair.send("f"), Ok(Stored::New));
        pair
    }

    #[track_caller]
    fn send(&self, name: &str) -> Result<Stored, FileError> {
        let file = self.own.path().join(name);
        fs::write(&file, vec![7; 300_000]).expect("it is ours");
        heard(&send(&self.here, self.there.location, &file))
    }

    fn has(&self, name: &str) -> bool {
        self.dest.path().join(name).exists()
    }

    /// Keeps all helper threads of the receiver busy, as long as what it answers lives.
    fn occupy(&self) -> Vec<Sender<()>> {
        let (holds, waits): (Vec<_>, Vec<_>) =
            (0..LoopConfig::default().blocking_threads_max).map(|_| channel::<()>()).unzip();
        let (tell, begun) = channel();
        for wait in waits {
            let tell = tell.clone();
            let mut job = Some(move || {
                tell_test(&tell, ());
                // Until the other end is dropped.
                wait.recv().is_err()
            });
            self.there.spawn(move |cx: &mut Cx<()>, _| {
                if let Some(job) = job.take() {
                    cx.blocking(job, |_| ());
                    return receive();
                }
                stop()
            });
        }
        holds.iter().for_each(|_| heard(&begun));
        holds
    }
}

fn send(from: &TestNode, to: Location, file: &Path) -> Receiver<Result<Stored, FileError>> {
    let (tell, told) = channel();
    let file = file.to_owned();
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.send_file(to, &file, FileOptions::default(), PATIENCE, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    told
}

fn delete(from: &TestNode, at: Location, timeout: Duration) -> Receiver<Result<(), DeleteError>> {
    let (tell, told) = channel();
    from.spawn(move |cx, event| match event {
        Event::Start => {
            cx.del_file(at, "f", "", timeout, |done| done);
            receive()
        }
        Event::Message(done) => {
            tell_test(&tell, done);
            stop()
        }
        _ => receive(),
    });
    told
}

#[test]
fn nobody_at_the_location_of_a_file_to_be_deleted_is_told_in_time() {
    let here = Net::new().quiet_node("here", &[]);
    let nobody = "127.0.0.1:9".parse().expect("a location");
    assert_eq!(heard(&delete(&here, nobody, millis(300))), Err(DeleteError::NoAnswer));
}

#[test]
fn a_deletion_that_is_not_done_in_time_may_be_done_later() {
    let pair = Pair::new(|config| config);
    let busy = pair.occupy();
    let told = delete(&pair.here, pair.there.location, millis(300));
    assert_eq!(heard(&told), Err(DeleteError::TimedOut));
    assert!(pair.has("f"));
    drop(busy);
    wait_for("the deletion", || (!pair.has("f")).then_some(()));
    let again = delete(&pair.here, pair.there.location, PATIENCE);
    assert_eq!(heard(&again), Err(DeleteError::NotFound));
}

#[test]
fn a_deletion_whose_node_goes_is_told_so() {
    let pair = Pair::new(|config| config);
    let _busy = pair.occupy();
    let told = delete(&pair.here, pair.there.location, PATIENCE);
    pair.here.wait_for_counts("the question", |counts| counts.replies == 1);
    let Pair { here: _here, there, own: _own, dest: _dest } = pair;
    there.stop();
    assert_eq!(heard(&told), Err(DeleteError::NodeLost));
}

#[test]
fn a_deletion_ends_with_the_actor_that_wanted_it() {
    let pair = Pair::new(|config| config);
    let _busy = pair.occupy();
    let at = pair.there.location;
    let asker = pair.here.spawn(move |cx: &mut Cx<()>, event| {
        if let Event::Start = event {
            cx.del_file(at, "f", "", 3 * PATIENCE, |_| ());
            return receive();
        }
        stop()
    });
    pair.here.wait_for_counts("the question", |counts| counts.replies == 1);
    pair.here.handle.send(asker, ()).expect("the node runs");
    // The other node is as busy as before.
    pair.here.wait_for_counts("the end of the question", |counts| counts.replies == 0);
    assert!(pair.has("f"));
}

#[test]
fn files_go_to_nodes_that_rest_and_wake_them() {
    let pair = Pair::new(|config| Config { stream_send: false, ..config });
    let rests = || {
        for node in [&pair.here, &pair.there] {
            node.wait_for_counts("no connection", |counts| counts.connections == 0);
        }
    };
    rests();
    assert_eq!(pair.send("g"), Ok(Stored::New));
    assert_eq!(fs::read(pair.dest.path().join("g")).expect("it is there"), vec![7; 300_000]);
    rests();
    assert_eq!(heard(&delete(&pair.here, pair.there.location, PATIENCE)), Ok(()));
    assert!(!pair.has("f"));
}
