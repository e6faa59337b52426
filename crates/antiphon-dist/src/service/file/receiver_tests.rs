//! A single receiver on virtual time: how long it waits for a sender that does not send.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use antiphon_sched::{AskError, ExitReason, Loop, LoopConfig, Platform, Time};

use super::*;
use crate::service::file::FileRules;
use crate::service::file::disk::Disk;
use crate::service::file::system_disk::SystemDisk;

/// The events that the sender in the test has seen.
#[derive(Default)]
struct SenderLog {
    receiver: Cell<Option<Addr<FromNode<ToReceiver>>>>,
    /// The messages of the receiver, in order.
    messages: RefCell<Vec<ToSender>>,
    /// Whether the receiver has ended.
    has_ended: Cell<bool>,
}

enum SenderEvent {
    Answer(Result<OfferAnswer, AskError>),
    FromReceiver(FromNode<ToSender>),
}

/// A loop with one receiver, and an actor that plays its sender.
struct ReceiverHarness {
    sched: Loop,
    log: Rc<SenderLog>,
    folder: tempfile::TempDir,
}

impl ReceiverHarness {
    /// Starts a receiver that waits for the first chunk of a file of 1 MiB.
    fn new(within: Option<Duration>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder is created");
        let rules = FileRules { keep: Duration::MAX, ..FileRules::default() };
        let dest = SystemDisk.open_dest(folder.path(), rules).expect("the folder is writable");
        let config = LoopConfig { platform: Platform::Virtual, watchdog: None, ..LoopConfig::default() };
        let mut sched = Loop::new(config).expect("a virtual loop needs no system resources");
        // This actor plays the file service.
        let service = sched.spawn(move |cx: &mut Cx<'_, (FileOffer, ReplyTo<OfferAnswer>)>, event| {
            if let Event::Message((offer, reply)) = event {
                let path = TargetPath::checked(offer.path.clone()).expect("plain names");
                cx.spawn_service(FileReceiver::new(dest.clone(), path, &offer, (None, String::new()), reply));
            }
            receive()
        });
        let log = Rc::new(SenderLog::default());
        let events = log.clone();
        sched.spawn(move |cx: &mut Cx<'_, SenderEvent>, event| {
            match event {
                Event::Start => {
                    let stat = FileStat { size: 1 << 20, seconds: 1, nanos: 0, permissions: 0o644 };
                    let within =
                        within.map(|within| u64::try_from(within.as_millis()).expect("the timeout is short"));
                    let sender = cx.adapter(SenderEvent::FromReceiver).expect("the limit is not reached");
                    let offer =
                        FileOffer { path: vec!["f".to_owned()], stat, overwrite: false, sender, within };
                    cx.ask(service, Duration::from_secs(1), |reply| (offer, reply), SenderEvent::Answer);
                }
                Event::Message(SenderEvent::Answer(Ok(OfferAnswer::Send { receiver, have, .. }))) => {
                    events.receiver.set(Some(receiver));
                    cx.monitor(receiver);
                    cx.tell(receiver, ToReceiver::Begin(have).into());
                }
                Event::Message(SenderEvent::FromReceiver(message)) => {
                    events.messages.borrow_mut().push(message.message);
                }
                Event::Down(down) => {
                    assert!(matches!(down.reason, ExitReason::Done(_)), "{}", down.reason);
                    events.has_ended.set(true);
                }
                _ => {}
            }
            receive()
        });
        let mut harness = Self { sched, log, folder };
        harness.run_until(Duration::ZERO);
        assert!(harness.log.receiver.get().is_some(), "the offer is not accepted");
        harness
    }

    /// Runs the loop until `since` after its start. Returns whether the receiver still lives.
    fn run_until(&mut self, since: Duration) -> bool {
        let then = Time::ZERO + since + TICKS;
        while let Some(next) = self.sched.next_deadline().filter(|next| *next < then) {
            self.sched.advance_to(next);
            self.work();
        }
        self.sched.advance_to(then);
        self.work();
        !self.log.has_ended.get()
    }

    fn work(&mut self) {
        self.sched.work();
        while self.sched.is_runnable() {
            self.sched.work();
        }
    }

    fn send(&mut self, bytes: usize) {
        let receiver = self.log.receiver.get().expect("the offer is accepted");
        let chunk = ToReceiver::Chunk(Bytes::from(vec![7; bytes]));
        assert!(self.sched.send(receiver, chunk.into()).is_ok());
        self.work();
    }

    /// Returns the sizes of the partial files.
    fn partial_sizes(&self) -> Vec<u64> {
        let dir = std::fs::read_dir(self.folder.path().join(".antiphon/partial")).expect("the folder exists");
        dir.map(|entry| entry.and_then(|entry| entry.metadata()).expect("the file exists").len()).collect()
    }
}

/// Timers never fire early, and at most this much late.
const TICKS: Duration = Duration::from_millis(10);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn receiver_of_silent_sender_fails_and_keeps_bytes() {
    let mut harness = ReceiverHarness::new(None);
    assert!(harness.run_until(secs(500)));
    harness.send(CHUNK_BYTES);
    assert!(harness.run_until(secs(600)), "one chunk in ten minutes must be enough");
    assert!(harness.run_until(secs(1199)));
    assert!(!harness.run_until(secs(1200)));
    let last = harness.log.messages.borrow_mut().pop();
    assert!(matches!(last, Some(ToSender::Failed(FileRefused::Disorder))));
    assert_eq!(harness.partial_sizes(), [CHUNK_BYTES as u64]);
}

#[test]
fn receiver_of_single_bytes_fails() {
    let mut harness = ReceiverHarness::new(None);
    for second in 1..600 {
        assert!(harness.run_until(secs(second)));
        harness.send(1);
    }
    assert!(!harness.run_until(secs(600)));
}

#[test]
fn receiver_stops_after_timeout_of_sender() {
    let mut harness = ReceiverHarness::new(Some(secs(10)));
    harness.send(CHUNK_BYTES);
    assert!(harness.run_until(secs(10)), "the receiver must give the sender time to report first");
    assert!(harness.run_until(secs(14)));
    assert!(!harness.run_until(secs(15)));
    assert_eq!(harness.partial_sizes(), [CHUNK_BYTES as u64]);
    // Without that timeout, the receiver stays.
    let mut other = ReceiverHarness::new(None);
    assert!(other.run_until(secs(599)));
}
