//! Wire names for types of other crates, each behind a feature of the name of its crate.

#[cfg(any(feature = "chrono", feature = "serde_json", feature = "time", feature = "uuid"))]
use crate::wire;

#[cfg(feature = "chrono")]
wire!(chrono::DateTime<chrono::Utc>, "chrono.utc");
#[cfg(feature = "chrono")]
wire!(chrono::DateTime<chrono::FixedOffset>, "chrono.fixed");
#[cfg(feature = "chrono")]
wire!(chrono::NaiveDateTime, "chrono.naive_date_time");
#[cfg(feature = "chrono")]
wire!(chrono::NaiveDate, "chrono.naive_date");
#[cfg(feature = "chrono")]
wire!(chrono::NaiveTime, "chrono.naive_time");

#[cfg(feature = "serde_json")]
wire!(serde_json::Value, "json");

#[cfg(feature = "time")]
wire!(time::OffsetDateTime, "time.offset_date_time");
#[cfg(feature = "time")]
wire!(time::PrimitiveDateTime, "time.primitive_date_time");
#[cfg(feature = "time")]
wire!(time::Date, "time.date");
#[cfg(feature = "time")]
wire!(time::Time, "time.time");
#[cfg(feature = "time")]
wire!(time::Duration, "time.duration");

#[cfg(feature = "uuid")]
wire!(uuid::Uuid, "uuid");
