//! Values that serde itself changes without an error. No check of the encoder can see these.

use std::net::SocketAddrV6;

use antiphon_sched::{Bytes, wire};
use serde::{Deserialize, Serialize};

use crate::carried::Carried;
use crate::routes::{Outcome, Path, Payload, Table};

impl Table {
    /// Checks that a value arrives as another one on all paths to the other node.
    fn change<T: Payload>(&self, value: T, arrived: T) {
        self.expect::<T>();
        assert_ne!(value, arrived);
        let (value, arrived) = (Carried::new(value), Carried::new(arrived));
        for path in &Path::ALL[1..] {
            self.check::<T>(*path, &value, |outcome| *outcome == Outcome::Arrived(arrived.clone()));
        }
        self.expect_nothing_more::<T>();
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(untagged)]
enum Ambiguous {
    Text(String),
    Name { name: String },
    Full { name: String, size: u8 },
    Character(char),
    Numbers(Vec<u8>),
    Wide(i128),
    Raw(Bytes),
}
wire!(Ambiguous, "test.ambiguous/1");

/// The first variant that can read the bytes is the one that arrives.
#[test]
fn untagged_variant_arrives_as_first_that_fits() {
    let table = Table::start();
    let name = || "x".to_owned();
    table.change(Ambiguous::Full { name: name(), size: 1 }, Ambiguous::Name { name: name() });
    table.change(Ambiguous::Character('x'), Ambiguous::Text(name()));
    table.arrive([Ambiguous::Numbers(vec![1; 4096])]);
    // More than 4096 bytes are encoded as bytes, unless another variant reads those.
    table.arrive([Ambiguous::Numbers(vec![b'a'; 4097]), Ambiguous::Numbers(vec![255; 4097])]);
    table.arrive([Ambiguous::Raw(vec![b'\xff'; 4097].into())]);
    table.finish();
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Skips {
    #[serde(skip)]
    skipped: u32,
    #[serde(skip_serializing, default)]
    not_sent: u32,
    #[serde(skip_deserializing)]
    not_read: u32,
    kept: u32,
}
wire!(Skips, "test.skips/1");

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Strange {
    #[serde(skip_serializing_if = "is_odd", default)]
    number: u32,
}
wire!(Strange, "test.strange/1");

fn is_odd(number: &u32) -> bool {
    number % 2 == 1
}

#[test]
fn skipped_fields_arrive_as_defaults() {
    let table = Table::start();
    let sent = Skips { skipped: 1, not_sent: 2, not_read: 3, kept: 4 };
    table.change(sent, Skips { skipped: 0, not_sent: 0, not_read: 0, kept: 4 });
    table.change(Strange { number: 7 }, Strange { number: 0 });
    table.finish();
}

/// Serialized as a narrower type.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(from = "f32", into = "f32")]
struct Narrow(f64);
wire!(Narrow, "test.narrow/1");

impl From<f32> for Narrow {
    fn from(number: f32) -> Self {
        Self(number.into())
    }
}

impl From<Narrow> for f32 {
    fn from(number: Narrow) -> Self {
        number.0 as Self
    }
}

#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
struct Coarse {
    #[serde(with = "chrono::serde::ts_seconds")]
    time: chrono::DateTime<chrono::Utc>,
}
wire!(Coarse, "test.coarse/1");

#[test]
fn precision_that_a_form_lacks_is_lost() {
    let table = Table::start();
    table.change(Narrow(0.1), Narrow(f64::from(0.1_f32)));
    let at = |nanos| chrono::DateTime::from_timestamp(1_700_000_000, nanos).expect("the time exists");
    table.change(Coarse { time: at(5) }, Coarse { time: at(0) });
    // The text of an address has no flow label.
    let address = |flow| SocketAddrV6::new([0, 0, 0, 0, 0, 0, 0, 1].into(), 80, flow, 2);
    table.change(address(7), address(0));
    table.finish();
}
