//! Brackets in wire names are reserved for composed names.
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Bad;
antiphon_sched::wire!(Bad, "vec<u8>");

fn main() {}
