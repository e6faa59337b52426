//! The number of allocations of sends to another node.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

mod common;
#[path = "common/counting.rs"]
#[allow(dead_code, reason = "each test file uses a part of this module")]
mod counting;

use std::sync::mpsc::channel;

use antiphon_dist::{DeliverError, NetCx};
use antiphon_sched::{Addr, Cx, Event, receive, secs, stop};
use common::{Net, recv, report};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[derive(Serialize, Deserialize)]
struct ThreeNumbers {
    a: u64,
    b: u64,
    c: u64,
}
antiphon_sched::wire!(ThreeNumbers, "test.small/1", compact);

const WARM_UP: u64 = 100_000;
const COUNTED: u64 = 100_000;
const PER_STEP: u64 = 500;

#[test]
fn sends_after_warm_up_allocate_nothing() {
    let (there, here) = Net::new().pair();
    let (sender, counted) = channel();
    let (done, all_received) = channel();
    let mut next = 0;
    there.spawn(move |cx: &mut Cx<ThreeNumbers>, event| {
        match event {
            Event::Start => cx.register("small")?,
            Event::Message(ThreeNumbers { a, b, c }) => {
                if (a, b, c) != (next, next + 1, next + 2) {
                    return antiphon_sched::fail(format!("received {a}, expected {next}"));
                }
                next += 1;
                if next == WARM_UP + COUNTED {
                    report(&done, ());
                }
            }
            _ => {}
        }
        receive()
    });
    let to: Addr<ThreeNumbers> = here.find("small");
    let (mut sent, mut allocations) = (0, 0);
    here.spawn(move |cx: &mut Cx<Result<(), DeliverError>>, event| {
        if let Event::Message(receipt) = event {
            receipt?;
        }
        if sent == WARM_UP + COUNTED {
            report(&sender, allocations);
            return stop();
        }
        let numbers = |n| ThreeNumbers { a: n, b: n + 1, c: n + 2 };
        let before = counting::thread_allocations();
        for n in sent..sent + PER_STEP - 1 {
            cx.send(to, numbers(n))?;
        }
        if sent >= WARM_UP {
            allocations += counting::thread_allocations() - before;
        }
        sent += PER_STEP;
        // The last message of a step asks for a receipt, which bounds the messages in flight. Receipts do allocate, so
        // this message is not counted.
        cx.deliver(to, numbers(sent - 1), secs(10), |receipt| receipt);
        receive()
    });
    assert_eq!(recv(&counted), 0, "allocations in {COUNTED} messages");
    recv(&all_received);
}
