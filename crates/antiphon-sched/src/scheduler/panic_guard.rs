//! Runs user code so that its panic ends that code and nothing else.
//!
//! A panic during another panic aborts the process; Rust does not allow otherwise. Therefore values are dropped
//! one by one, each under a guard of its own.
//!
//! User code runs only while no table of the core is borrowed. The borrow checker shows that for code that gets the core. A table could
//! still drop a value of user code in one of its methods; so a debug build counts the methods that are running, and checks the number
//! where user code is called.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::printable;
use crate::scheduler::mailbox::AnyMailbox;

#[cfg(debug_assertions)]
thread_local! {
    static TABLES_IN_USE: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Marks that a method of a table is running, which may hold values of user code. Does nothing in a release build.
#[must_use]
pub(crate) struct TableInUse(());

impl TableInUse {
    #[inline]
    pub(crate) fn begin() -> Self {
        #[cfg(debug_assertions)]
        TABLES_IN_USE.set(TABLES_IN_USE.get() + 1);
        Self(())
    }
}

#[cfg(debug_assertions)]
impl Drop for TableInUse {
    fn drop(&mut self) {
        TABLES_IN_USE.set(TABLES_IN_USE.get() - 1);
    }
}

/// Whether no method of a table is running on this thread. A release build does not know.
#[inline]
pub(crate) fn may_run_user_code() -> bool {
    // At the end of a thread, its thread-local values may be destroyed before the values of user code.
    #[cfg(debug_assertions)]
    return TABLES_IN_USE.try_with(std::cell::Cell::get).unwrap_or(0) == 0;
    #[cfg(not(debug_assertions))]
    true
}

/// Checks in a debug build that user code may run now.
#[inline]
#[track_caller]
pub(crate) fn debug_assert_no_table_in_use() {
    debug_assert!(may_run_user_code(), "user code would run while a table of the core is borrowed");
}

/// Runs `code`; a panic becomes an error with the text of the panic.
pub(crate) fn catch_panic<R>(code: impl FnOnce() -> R) -> Result<R, String> {
    debug_assert_no_table_in_use();
    catch_unwind(AssertUnwindSafe(code)).map_err(panic_text)
}

/// Runs `code`; a panic is logged.
pub(crate) fn log_panic(code: impl FnOnce()) {
    if let Err(text) = catch_panic(code) {
        tracing::error!(
            text = printable(text),
            "a value panicked while it was dropped; nothing else is affected"
        );
    }
}

/// The text of a panic. Dropping another kind of payload may panic as well, which is logged.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = match payload.downcast::<&'static str>() {
        Ok(text) => return (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => return *text,
            Err(payload) => {
                log_panic(|| drop(payload));
                "a panic that carried no text"
            }
        },
    };
    text.to_owned()
}

/// Drops an actor and its mailbox, each value under a guard of its own.
#[cfg_attr(feature = "safe", expect(dead_code, reason = "only the unsafe cell uses it"))]
pub(crate) fn dispose<A>(mut mailbox: impl AnyMailbox, actor: A) {
    dispose_boxed(&mut mailbox, actor);
}

/// As [`dispose`], for a mailbox that is kept; it is empty afterwards.
pub(crate) fn dispose_boxed<A>(mailbox: &mut dyn AnyMailbox, actor: A) {
    if std::mem::needs_drop::<A>() {
        log_panic(|| drop(actor));
    }
    mailbox.drop_all();
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;
    use crate::actor::{Addr, Cx, Event, receive, receive_again, receive_if, stop, suspend};
    use crate::event_loop::{Loop, LoopConfig, Platform};
    use crate::scheduler::{MailboxLimit, WhenFull};
    use antiphon_types::secs;

    /// The drops of user values by their kinds, and the number of those while a table was in use.
    #[derive(Default)]
    struct DropLog {
        drops: RefCell<BTreeMap<&'static str, u32>>,
        forbidden: Cell<u32>,
    }

    struct Checked(&'static str, Rc<DropLog>);

    impl Drop for Checked {
        fn drop(&mut self) {
            *self.1.drops.borrow_mut().entry(self.0).or_default() += 1;
            self.1.forbidden.set(self.1.forbidden.get() + u32::from(!may_run_user_code()));
        }
    }

    fn virtual_loop() -> Loop {
        let config = LoopConfig { platform: Platform::Virtual, ..LoopConfig::default() };
        Loop::new(config).expect("a virtual loop needs no resources of the system")
    }

    fn settle(events: &mut Loop) {
        events.work();
        while events.is_runnable() {
            events.work();
        }
    }

    /// An actor that holds values of all kinds. It cancels its timer in the middle of a scan, while a tick waits.
    fn holder(events: &mut Loop, log: &Rc<DropLog>) -> Addr<Checked> {
        let log = log.clone();
        let mut timer = None;
        events.spawn(move |cx: &mut Cx<'_, Checked>, event| {
            let value = |kind| Checked(kind, log.clone());
            match event {
                Event::Start => {
                    let (maker, ticks) = (value("maker"), log.clone());
                    let make = move || {
                        let _ = &maker;
                        Checked("tick", ticks.clone())
                    };
                    timer = Some(cx.every(secs(1), make)?);
                    cx.after(secs(9), value("timer"))?;
                    let convert = value("adapter");
                    let adapter = cx.adapter(move |n: u8| {
                        let _ = &convert;
                        Checked(if n == 0 { "converted" } else { "other" }, convert.1.clone())
                    })?;
                    cx.send(adapter, 0)?;
                    let answer = value("answer");
                    let me = cx.addr();
                    let asked = log.clone();
                    cx.ask(me, secs(9), |_| Checked("question", asked), move |_: Result<(), _>| answer);
                    let predicate = value("predicate");
                    receive_if(move |message: &Checked| {
                        let _ = &predicate;
                        message.0 == "cancel"
                    })
                }
                Event::Message(message) if message.0 == "cancel" => {
                    timer.take().map(|timer| cx.cancel(timer));
                    receive()
                }
                Event::Message(message) if message.0 == "stop" => stop(),
                Event::Message(message) if message.0 == "again" => receive_again(),
                Event::Message(message) if message.0 == "suspend" => suspend(),
                _ => receive(),
            }
        })
    }

    /// Each value of user code is dropped while no table of the core is in use, wherever it is.
    #[test]
    fn user_values_drop_while_no_table_is_used() {
        let (mut events, log) = (virtual_loop(), Rc::new(DropLog::default()));
        let value = |kind| Checked(kind, log.clone());
        let send = |events: &mut Loop, to: Addr<Checked>, kind| {
            assert!(events.send(to, Checked(kind, log.clone())).is_ok());
        };
        let drops = |kind| log.drops.borrow().get(kind).copied().unwrap_or(0);

        // A scan ends, and its tick is of a timer that was cancelled meanwhile.
        let ended = holder(&mut events, &log);
        settle(&mut events);
        events.advance_to(events.now() + secs(1));
        settle(&mut events);
        assert_eq!((drops("tick"), drops("predicate")), (0, 0), "both wait in the scan");
        send(&mut events, ended, "cancel");
        settle(&mut events);
        assert_eq!((drops("maker"), drops("tick"), drops("predicate"), drops("converted")), (1, 1, 1, 1));
        // An actor ends with messages, and with an open request.
        send(&mut events, ended, "suspend");
        settle(&mut events);
        send(&mut events, ended, "left");
        let other = holder(&mut events, &log);
        settle(&mut events);
        events.spawn(move |cx: &mut Cx<'_, ()>, _| {
            cx.kill(ended);
            cx.kill(other);
            stop()
        });
        settle(&mut events);
        assert_eq!((drops("left"), drops("timer"), drops("adapter"), drops("answer")), (1, 2, 2, 2));
        assert_eq!((drops("predicate"), drops("maker")), (2, 2), "of an actor that ends in a scan");
        // Full mailboxes discard.
        for when_full in [WhenFull::DropOldest, WhenFull::DropNewest] {
            let limit = MailboxLimit::new(1, when_full);
            let full = events.spawn_with(limit, |_: &mut Cx<'_, Checked>, _: Event<Checked>| suspend());
            settle(&mut events);
            send(&mut events, full, "discarded");
            send(&mut events, full, "discarded");
        }
        assert_eq!(drops("discarded"), 2);
        // A virtual job and what chooses its time.
        let (time, job) = (value("job time"), value("job time"));
        events.set_job_time(move |_, _| {
            let _ = &time;
            assert!(may_run_user_code());
            secs(1)
        });
        events.set_job_time(move |_, _| {
            let _ = &job;
            secs(1)
        });
        assert_eq!(drops("job time"), 1);
        // The loop ends with all of them.
        holder(&mut events, &log);
        settle(&mut events);
        drop(events);
        assert_eq!((drops("adapter"), drops("answer"), drops("predicate"), drops("discarded")), (3, 3, 3, 4));
        assert_eq!(drops("job time"), 2);
        assert_eq!(log.forbidden.get(), 0, "a table was in use: {:?}", log.drops.borrow());
    }

    #[test]
    #[should_panic(expected = "while a table of the core is borrowed")]
    fn user_code_in_table_is_reported() {
        let in_use = TableInUse::begin();
        log_panic(|| ());
        drop(in_use);
    }
}
