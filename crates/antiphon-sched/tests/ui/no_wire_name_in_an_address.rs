//! An address can cross the wire only if the messages that it takes can.
use antiphon_sched::Addr;
use serde::Serialize;

struct Plain;

#[derive(Serialize)]
struct Hello {
    from: Addr<Plain>,
}

fn main() {}
