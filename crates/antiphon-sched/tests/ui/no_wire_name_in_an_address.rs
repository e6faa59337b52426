//! A message that holds an address needs to know that the address can cross.
use antiphon_sched::{Addr, wire};
use serde::{Deserialize, Serialize};

struct Plain;

#[derive(Serialize, Deserialize)]
struct Hello {
    from: Addr<Plain>,
}
wire!(Hello, "test.hello/1");

fn main() {}
