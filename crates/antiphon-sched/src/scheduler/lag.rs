//! The messages of a channel that a subscriber misses because its mailbox is full.
//!
//! Invariant: a subscriber receives one `Lagged` between two messages of a channel if it missed messages there, with
//! their exact number. The event is queued at the first missed message, so it keeps its place in the order.

use std::cell::Cell;
use std::rc::Rc;

use crate::id::{ActorId, Key};
use crate::scheduler::core::Core;
use crate::scheduler::system_event::SystemEvent;

/// The messages of one channel that one actor of this loop has missed since the last message that it got.
#[derive(Debug, Default)]
pub struct Lag(Option<Rc<Cell<u64>>>);

impl Lag {
    /// The subscriber got a message: messages that it misses from now on are reported by another event.
    pub fn end(&mut self) {
        self.0 = None;
    }

    /// The number in the event, while the event waits in the mailbox, which holds the other reference.
    fn queued(&self) -> Option<&Rc<Cell<u64>>> {
        self.0.as_ref().filter(|queued| Rc::strong_count(queued) > 1)
    }

    /// Whether the subscriber has not yet taken the event of the messages that it missed last.
    pub(crate) fn is_queued(&self) -> bool {
        self.queued().is_some()
    }
}

impl Core {
    /// Adds to the messages of a channel that an actor of this loop has missed; false when it has exited.
    pub(crate) fn add_missed(
        &mut self,
        subscriber: Key,
        channel: ActorId,
        missed: u64,
        lag: &mut Lag,
    ) -> bool {
        if let Some(queued) = lag.queued() {
            queued.set(queued.get().saturating_add(missed));
            return true;
        }
        let queued = Rc::new(Cell::new(missed));
        lag.0 = Some(queued.clone());
        self.push_system(subscriber, SystemEvent::Lagged(channel, queued))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::Lag;
    use crate::{ActorId, Addr, Event, Key, Loop, LoopConfig, NodeId, Platform, receive, suspend};

    const CHANNEL: ActorId = ActorId::new(NodeId::from_bits(7), Key::from_bits(7));

    type Log = Rc<RefCell<Vec<String>>>;

    fn small_loop() -> Loop {
        let config = LoopConfig { platform: Platform::Virtual, mailbox_max: 2, ..LoopConfig::default() };
        Loop::new(config).expect("a virtual loop needs no resources of the system")
    }

    fn settle(events: &mut Loop) {
        while events.is_runnable() {
            events.work();
        }
    }

    /// An actor that notes its events. It takes nothing until it is resumed.
    fn subscriber(events: &mut Loop, log: &Log) -> Addr<u32> {
        let log = log.clone();
        let actor = events.spawn(move |_, event: Event<u32>| {
            match event {
                Event::Start => return suspend(),
                Event::Message(number) => log.borrow_mut().push(number.to_string()),
                Event::Lagged { channel: CHANNEL, missed } => {
                    log.borrow_mut().push(format!("missed {missed}"));
                }
                Event::Writable { .. } => log.borrow_mut().push("writable".to_owned()),
                _ => {}
            }
            receive()
        });
        settle(events);
        actor
    }

    fn resume(events: &mut Loop, actor: Addr<u32>) {
        events.spawn(move |cx: &mut crate::Cx<'_, ()>, _| {
            cx.resume(actor, ());
            crate::stop()
        });
        settle(events);
    }

    #[test]
    fn missed_messages_join_event_that_waits() {
        let (mut events, log) = (small_loop(), Log::default());
        let actor = subscriber(&mut events, &log);
        let (key, mut lag) = (actor.id().key(), Lag::default());
        let miss = |events: &mut Loop, missed, lag: &mut Lag| {
            assert!(events.loop_ref().service().add_missed(key, CHANNEL, missed, lag));
        };
        miss(&mut events, 1, &mut lag);
        miss(&mut events, 2, &mut lag);
        events.send(actor, 5).expect("the mailbox has room");
        lag.end();
        miss(&mut events, 4, &mut lag);
        resume(&mut events, actor);
        assert_eq!(log.take(), ["missed 3", "5", "missed 4"], "a message parts two events");
        miss(&mut events, 8, &mut lag);
        settle(&mut events);
        assert_eq!(log.take(), ["missed 8"], "an event that was taken does not change");
    }

    #[test]
    fn missed_messages_of_flooded_mailbox_are_refused() {
        let (mut events, log) = (small_loop(), Log::default());
        let actor = subscriber(&mut events, &log);
        let key = actor.id().key();
        let mut lags = [(); 5].map(|()| Lag::default());
        let added = lags.each_mut().map(|lag| events.loop_ref().service().add_missed(key, CHANNEL, 1, lag));
        assert_eq!(added, [true, true, true, true, false], "twice the limit of the mailbox");
        assert!(
            events.loop_ref().service().add_missed(key, CHANNEL, 1, &mut lags[0]),
            "an event that waits may grow"
        );
        resume(&mut events, actor);
        assert_eq!(log.take(), ["missed 2", "missed 1", "missed 1", "missed 1"]);
    }

    #[test]
    fn cancelled_wait_for_room_sends_no_writable() {
        for is_cancelled in [false, true] {
            let (mut events, log) = (small_loop(), Log::default());
            let full = subscriber(&mut events, &log);
            (0..2).for_each(|number| events.send(full, number).expect("the mailbox has room"));
            let noted = log.clone();
            events.spawn(move |cx: &mut crate::Cx<'_, ()>, event| {
                match event {
                    Event::Start => {
                        let me = cx.id().key();
                        cx.loop_ref().service().await_room(full.id());
                        if is_cancelled {
                            cx.loop_ref().service().cancel_await_room(me, full.id());
                        }
                    }
                    Event::Writable { .. } => noted.borrow_mut().push("writable".to_owned()),
                    _ => {}
                }
                receive()
            });
            settle(&mut events);
            resume(&mut events, full);
            let is_writable = log.take().contains(&"writable".to_owned());
            assert_eq!(is_writable, !is_cancelled);
        }
    }
}
