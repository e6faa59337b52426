//! An address in a message can cross only if its own messages can.
use antiphon_sched::Addr;
use serde::Serialize;

struct Plain;

#[derive(Serialize)]
struct Hello {
    from: Addr<Plain>,
}

fn main() {}
