//! A model of the armed flag: in every order that the memory model allows, no push is slept over; and the
//! twin that shows what the fence is for.
//!
//! Only the flag compiles under loom: `RUSTFLAGS="--cfg loom" cargo test -p antiphon-sched --test loom --release
//! --target-dir target/loom`.
#![cfg(loom)]

use antiphon_sched::wake_flag::WakeFlag;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::thread;

/// One loop that goes to sleep, and `pushers` who push; `fence` is what stands between the two looks.
fn sleeps_over_no_push(pushers: usize, fence: fn()) {
    loom::model(move || {
        let wake_flag = Arc::new(WakeFlag::new());
        let queue = Arc::new(AtomicUsize::new(0));
        let woken = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = (0..pushers)
            .map(|_| {
                let (wake_flag, queue, woken) = (wake_flag.clone(), queue.clone(), woken.clone());
                thread::spawn(move || {
                    queue.fetch_add(1, Ordering::Relaxed);
                    if wake_flag.take_with(fence) {
                        woken.store(true, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        wake_flag.arm_with(fence);
        let seen = queue.load(Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("a pusher ends"));
        // With an empty queue the loop slept: then somebody must have woken it.
        assert!(seen > 0 || woken.load(Ordering::Relaxed), "a push was slept over");
    });
}

#[test]
fn no_push_is_slept_over() {
    sleeps_over_no_push(1, || fence(Ordering::SeqCst));
}

#[test]
fn no_push_of_two_is_slept_over() {
    sleeps_over_no_push(2, || fence(Ordering::SeqCst));
}

#[test]
#[should_panic(expected = "a push was slept over")]
fn without_the_fence_a_push_can_be_slept_over() {
    sleeps_over_no_push(1, || {});
}

#[test]
#[should_panic(expected = "a push was slept over")]
fn with_a_weaker_fence_a_push_can_be_slept_over() {
    sleeps_over_no_push(1, || fence(Ordering::AcqRel));
}

#[test]
fn the_flag_as_it_is_used_has_the_fence() {
    loom::model(|| {
        let wake_flag = Arc::new(WakeFlag::new());
        let queue = Arc::new(AtomicBool::new(false));
        let (flag, place) = (wake_flag.clone(), queue.clone());
        let pusher = thread::spawn(move || {
            place.store(true, Ordering::Relaxed);
            flag.take()
        });
        wake_flag.arm();
        let seen = queue.load(Ordering::Relaxed);
        let woken = pusher.join().expect("a pusher ends");
        assert!(seen || woken, "a push was slept over");
        wake_flag.disarm();
        assert!(!wake_flag.take(), "nobody wakes a loop that is awake");
    });
}

#[test]
fn of_many_who_push_one_is_told_to_wake() {
    loom::model(|| {
        let wake_flag = Arc::new(WakeFlag::new());
        wake_flag.arm();
        let threads = [(); 2].map(|()| {
            let wake_flag = wake_flag.clone();
            thread::spawn(move || wake_flag.take())
        });
        let told = threads.map(|thread| thread.join().expect("a pusher ends"));
        assert_ne!(told[0], told[1]);
    });
}
