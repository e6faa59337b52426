//! A receiver by itself, on virtual time: how long it holds its place for a sender that does not send.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use antiphon_sched::{AskError, ExitReason, Loop, LoopConfig, Park, Time};

use super::*;
use crate::files::FileRules;

/// What the sender was told, in order.
#[derive(Default)]
struct Seen {
    receiver: Cell<Option<Addr<FromNode<ToReceiver>>>>,
    said: RefCell<Vec<ToSender>>,
    /// How the receiver ended.
    ended: Cell<bool>,
}

enum Heard {
    Answer(Result<OfferAnswer, AskError>),
    Said(FromNode<ToSender>),
}

struct Stage {
    sched: Loop,
    seen: Rc<Seen>,
    folder: tempfile::TempDir,
}

impl Stage {
    /// A receiver that waits for the first piece of a file of a MiB.
    fn new(within: Option<Duration>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let rules = FileRules { keep: Duration::MAX, ..FileRules::default() };
        let dest = Arc::new(Dest::open(folder.path(), rules).expect("it is ours"));
        let config = LoopConfig { park: Park::Virtual, watchdog: None, ..LoopConfig::default() };
        let mut sched = Loop::new(config).expect("it needs nothing of the system");
        // In the place of the keeper.
        let keeper = sched.spawn(move |cx: &mut Cx<'_, (FileOffer, ReplyTo<OfferAnswer>)>, event| {
            if let Event::Message((offer, reply)) = event {
                let path = TargetPath::checked(offer.path.clone()).expect("plain names");
                cx.spawn_actor(FileReceiver::new(dest.clone(), path, &offer, (None, String::new()), reply));
            }
            receive()
        });
        let seen = Rc::new(Seen::default());
        let told = seen.clone();
        sched.spawn(move |cx: &mut Cx<'_, Heard>, event| {
            match event {
                Event::Start => {
                    let stat = FileStat { size: 1 << 20, seconds: 1, nanos: 0, permissions: 0o644 };
                    let within =
                        within.map(|within| u64::try_from(within.as_millis()).expect("it is not long"));
                    let sender = cx.adapter(Heard::Said);
                    let offer =
                        FileOffer { path: vec!["f".to_owned()], stat, overwrite: false, sender, within };
                    cx.ask(keeper, Duration::from_secs(1), |reply| (offer, reply), Heard::Answer);
                }
                Event::Message(Heard::Answer(Ok(OfferAnswer::Send { receiver, have, .. }))) => {
                    told.receiver.set(Some(receiver));
                    cx.monitor(receiver);
                    cx.tell(receiver, ToReceiver::Begin(have).into());
                }
                Event::Message(Heard::Said(said)) => told.said.borrow_mut().push(said.what),
                Event::Down(down) => {
                    assert!(matches!(down.reason, ExitReason::Done(_)), "{}", down.reason);
                    told.ended.set(true);
                }
                _ => {}
            }
            receive()
        });
        let mut stage = Self { sched, seen, folder };
        stage.at(Duration::ZERO);
        assert!(stage.seen.receiver.get().is_some(), "the file is taken");
        stage
    }

    /// Lets the time go on to so long after the beginning; whether the receiver is there still.
    fn at(&mut self, since: Duration) -> bool {
        let then = Time::ZERO + since + TICKS;
        while let Some(next) = self.sched.next_deadline().filter(|next| *next < then) {
            self.sched.advance_to(next);
            self.work();
        }
        self.sched.advance_to(then);
        self.work();
        !self.seen.ended.get()
    }

    fn work(&mut self) {
        self.sched.work();
        while self.sched.is_runnable() {
            self.sched.work();
        }
    }

    fn send(&mut self, bytes: usize) {
        let receiver = self.seen.receiver.get().expect("the file is taken");
        let chunk = ToReceiver::Chunk(Bytes(vec![7; bytes]));
        assert!(self.sched.send(receiver, chunk.into()).is_ok());
        self.work();
    }

    /// The bytes that are kept to go on with.
    fn kept(&self) -> Vec<u64> {
        let dir = std::fs::read_dir(self.folder.path().join(".antiphon/partial")).expect("it was made");
        dir.map(|entry| entry.and_then(|entry| entry.metadata()).expect("it is there").len()).collect()
    }
}

/// Timers are never early, and may be so late.
const TICKS: Duration = Duration::from_millis(10);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_sender_that_sends_nothing_for_ten_minutes_loses_its_place_and_what_came_is_kept() {
    let mut stage = Stage::new(None);
    assert!(stage.at(secs(500)));
    stage.send(CHUNK_BYTES);
    assert!(stage.at(secs(600)), "a piece in each ten minutes is enough");
    assert!(stage.at(secs(1199)));
    assert!(!stage.at(secs(1200)));
    let last = stage.seen.said.borrow_mut().pop();
    assert!(matches!(last, Some(ToSender::Failed(FileRefused::Disorder))));
    assert_eq!(stage.kept(), [CHUNK_BYTES as u64]);
}

#[test]
fn bytes_that_come_one_by_one_hold_no_place() {
    let mut stage = Stage::new(None);
    for second in 1..600 {
        assert!(stage.at(secs(second)));
        stage.send(1);
    }
    assert!(!stage.at(secs(600)));
}

#[test]
fn a_receiver_ends_soon_after_the_time_that_its_sender_has() {
    let mut stage = Stage::new(Some(secs(10)));
    stage.send(CHUNK_BYTES);
    assert!(stage.at(secs(10)), "the sender tells first, if it can");
    assert!(stage.at(secs(14)));
    assert!(!stage.at(secs(15)));
    assert_eq!(stage.kept(), [CHUNK_BYTES as u64]);
    // Nothing else has this one's end.
    let mut other = Stage::new(None);
    assert!(other.at(secs(599)));
}
