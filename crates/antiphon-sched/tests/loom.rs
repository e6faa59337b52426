//! A model of the wake flag: in every order that the memory model allows, no wakeup is lost. Tests with weaker
//! fences show that the fence is needed.
//!
//! Only the flag compiles under loom:
//! `RUSTFLAGS="--cfg loom" cargo test -p antiphon-sched --test loom --release --target-dir target/loom`.
#![cfg(loom)]

use antiphon_sched::wake_flag::WakeFlag;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::thread;

/// Models one loop that goes to sleep and several pushing threads; each side runs `fence` between its write and its
/// read.
fn check_no_lost_wakeup(pushers: usize, fence: fn()) {
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
        wake_flag.set_with(fence);
        let seen = queue.load(Ordering::Relaxed);
        threads.into_iter().for_each(|thread| thread.join().expect("a pushing thread ends"));
        // With an empty queue the loop slept: then a push must have woken it.
        assert!(seen > 0 || woken.load(Ordering::Relaxed), "a wakeup was lost");
    });
}

#[test]
fn push_always_wakes_loop() {
    check_no_lost_wakeup(1, || fence(Ordering::SeqCst));
}

#[test]
fn two_pushes_always_wake_loop() {
    check_no_lost_wakeup(2, || fence(Ordering::SeqCst));
}

#[test]
#[should_panic(expected = "a wakeup was lost")]
fn missing_fence_loses_wakeup() {
    check_no_lost_wakeup(1, || {});
}

#[test]
#[should_panic(expected = "a wakeup was lost")]
fn acquire_release_fence_loses_wakeup() {
    check_no_lost_wakeup(1, || fence(Ordering::AcqRel));
}

#[test]
fn default_methods_lose_no_wakeup() {
    loom::model(|| {
        let wake_flag = Arc::new(WakeFlag::new());
        let queue = Arc::new(AtomicBool::new(false));
        let (flag, pushed) = (wake_flag.clone(), queue.clone());
        let pusher = thread::spawn(move || {
            pushed.store(true, Ordering::Relaxed);
            flag.take()
        });
        wake_flag.set();
        let seen = queue.load(Ordering::Relaxed);
        let woken = pusher.join().expect("a pushing thread ends");
        assert!(seen || woken, "a wakeup was lost");
        wake_flag.clear();
        assert!(!wake_flag.take(), "a push wakes no loop that works");
    });
}

#[test]
fn concurrent_pushes_wake_loop_once() {
    loom::model(|| {
        let wake_flag = Arc::new(WakeFlag::new());
        wake_flag.set();
        let threads = [(); 2].map(|()| {
            let wake_flag = wake_flag.clone();
            thread::spawn(move || wake_flag.take())
        });
        let wakes = threads.map(|thread| thread.join().expect("a pushing thread ends"));
        assert_ne!(wakes[0], wakes[1]);
    });
}
