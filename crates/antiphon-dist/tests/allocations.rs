//! What sending to another node costs.

#![expect(unsafe_code, reason = "a global allocator is unsafe to write")]

mod common;
#[path = "common/counting.rs"]
#[allow(dead_code, reason = "each test file uses its part of this")]
mod counting;

use std::sync::mpsc::channel;

use antiphon_dist::{DeliverError, NetCx};
use antiphon_sched::{Addr, Cx, Event, receive, secs, stop};
use common::{Net, heard, tell_test};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[derive(Serialize, Deserialize)]
struct Small {
    a: u64,
    b: u64,
    c: u64,
}
antiphon_sched::wire!(Small, "test.small/1", compact);

const WARM_UP: u64 = 100_000;
const COUNTED: u64 = 100_000;
const IN_A_STEP: u64 = 500;

#[test]
fn a_hundred_thousand_sends_allocate_nothing_once_warm() {
    let (there, here) = Net::new().pair();
    let (tell, told) = channel();
    let (done, all) = channel();
    let mut next = 0;
    there.spawn(move |cx: &mut Cx<Small>, event| {
        match event {
            Event::Start => cx.register("small")?,
            Event::Message(Small { a, b, c }) => {
                if (a, b, c) != (next, next + 1, next + 2) {
                    return antiphon_sched::fail(format!("{a} came where {next} was next"));
                }
                next += 1;
                if next == WARM_UP + COUNTED {
                    tell_test(&done, ());
                }
            }
            _ => {}
        }
        receive()
    });
    let to: Addr<Small> = here.find("small");
    let (mut sent, mut allocations) = (0, 0);
    here.spawn(move |cx: &mut Cx<Result<(), DeliverError>>, event| {
        if let Event::Message(receipt) = event {
            receipt?;
        }
        if sent == WARM_UP + COUNTED {
            tell_test(&tell, allocations);
            return stop();
        }
        let small = |n| Small { a: n, b: n + 1, c: n + 2 };
        let before = counting::allocations_here();
        for n in sent..sent + IN_A_STEP - 1 {
            cx.send(to, small(n))?;
        }
        if sent >= WARM_UP {
            allocations += counting::allocations_here() - before;
        }
        sent += IN_A_STEP;
        // The last one goes with a receipt, whose bookkeeping does allocate: so many at a time are under way.
        cx.deliver(to, small(sent - 1), secs(10), |receipt| receipt);
        receive()
    });
    assert_eq!(heard(&told), 0, "allocations in {COUNTED} messages");
    heard(&all);
}
