//! The hello: the identity and the limits of one side, in a fixed layout.

use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::bytes::{Field, Malformed, Reader};
use crate::handshake::message::{self, MessageKind};
use crate::ids::NodeId;
use crate::limits::{
    EPOCH_MAX, LOCATIONS_MAX, Limits, NAME_BYTES_MAX, PAUSED_ACTORS_MAX_LEAST, RECORD_BYTES_MAX_LEAST,
    RECORD_BYTES_MAX_MOST, WINDOW_BYTES_LEAST,
};
use crate::suite::Suite;

/// Flag: this side wants to close the connection while it is idle. The receiver may ignore it, as all flags of the
/// upper half.
pub const CLOSES_WHEN_IDLE: u32 = 1 << 16;
/// Flag: this side takes no part in discovery, so peers do not announce it to other nodes.
pub const UNDISCOVERED: u32 = 1 << 17;

/// The first message of each side. Its content is unproven until the proofs are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that this side supports. In the acceptor's hello: the chosen version.
    pub version_min: u16,
    /// The newest version that this side supports. In the acceptor's hello: the chosen version.
    pub version_max: u16,
    /// Flags. The receiver must understand those of the lower half, and may ignore those of the upper half.
    pub flags: u32,
    /// The configured id of the secret. The dialler chooses it, the acceptor repeats it.
    pub key_id: u32,
    /// The incarnation of the node.
    pub node: NodeId,
    /// The session of this connection, as this side knows it.
    pub resume_state: ResumeState,
    /// The limits of this side as a receiver.
    pub limits: HelloLimits,
    /// 32 random bytes.
    pub nonce: [u8; 32],
    /// An X25519 public key.
    pub public: [u8; 32],
    /// The dialler's hello: the suites that it allows, best first. The acceptor's: the chosen suite. Unknown suites
    /// are omitted.
    pub suites: SmallVec<[Suite; 8]>,
    /// The node's name.
    pub name: String,
    /// The locations at which the node accepts connections, best first.
    pub locations: Vec<SocketAddr>,
}

/// The state of one side's half of a session, by which a connection resumes the session or begins a new one.
///
/// Two *epochs* identify a session, one for each half. Each side takes its epoch from its own counter, which rises
/// whenever a session of that node ends. So two sides that both keep their half identify the same session,
/// whichever side dials. A side that has lost its half is detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeState {
    /// The epoch of this side's half, at least 1, and less than 2^63.
    pub epoch: u64,
    /// The epoch of the peer's half, if the peer has proven one; else 0.
    pub known: u64,
    /// The dialler's hello: the number of this connection in the session, higher than all numbers that the dialler
    /// knows. The acceptor's: the highest number that was proven to it.
    pub ordinal: u32,
}

impl ResumeState {
    /// The state for a dial to a node with which this side has no session.
    pub fn unknown(epoch: u64) -> ResumeState {
        ResumeState { epoch, known: 0, ordinal: 1 }
    }
}

/// The limits that one side sends in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloLimits {
    /// The largest record that this side accepts, in bytes.
    pub record_bytes_max: u32,
    /// The largest message body that this side accepts, in bytes.
    pub message_bytes_max: u32,
    /// The bytes of fragmented messages that this side reassembles at one time.
    pub reassembly_bytes_max: u32,
    /// The bytes of numbered frames that the peer may send in a new session before it is granted more credit.
    pub window_bytes: u32,
    /// The actors that the peer may have paused at one time, at least 65,536.
    pub paused_actors_max: u32,
}

impl From<&Limits> for HelloLimits {
    fn from(limits: &Limits) -> HelloLimits {
        HelloLimits {
            record_bytes_max: limits.record_bytes_max.clamp(RECORD_BYTES_MAX_LEAST, RECORD_BYTES_MAX_MOST),
            message_bytes_max: limits.message_bytes_max,
            reassembly_bytes_max: limits.reassembly_bytes_max,
            window_bytes: limits.window_bytes.max(WINDOW_BYTES_LEAST),
            paused_actors_max: limits.paused_actors_max.max(PAUSED_ACTORS_MAX_LEAST),
        }
    }
}

impl Hello {
    /// Appends the whole message to `out`.
    pub(crate) fn put(&self, kind: MessageKind, out: &mut Vec<u8>) {
        let start = message::begin(kind, out);
        self.version_min.put(out);
        self.version_max.put(out);
        self.flags.put(out);
        self.key_id.put(out);
        self.node.put(out);
        self.resume_state.epoch.put(out);
        self.resume_state.known.put(out);
        self.resume_state.ordinal.put(out);
        self.limits.record_bytes_max.put(out);
        self.limits.message_bytes_max.put(out);
        self.limits.reassembly_bytes_max.put(out);
        self.limits.window_bytes.put(out);
        self.limits.paused_actors_max.put(out);
        self.nonce.put(out);
        self.public.put(out);
        put_count(self.suites.len(), out);
        self.suites.iter().for_each(|suite| out.push(*suite as u8));
        put_count(self.name.len(), out);
        self.name.as_bytes().put(out);
        put_count(self.locations.len(), out);
        self.locations.iter().for_each(|location| location.put(out));
        message::finish(start, out);
    }

    /// Takes a hello from the body of a message. Ignores bytes after the last field, which belong to later versions.
    pub(crate) fn take(mut reader: Reader<'_>) -> Result<Hello, Malformed> {
        let reader = &mut reader;
        let hello = Hello {
            version_min: u16::take(reader)?,
            version_max: u16::take(reader)?,
            flags: u32::take(reader)?,
            key_id: u32::take(reader)?,
            node: NodeId::take(reader)?,
            resume_state: ResumeState {
                epoch: u64::take(reader)?,
                known: u64::take(reader)?,
                ordinal: u32::take(reader)?,
            },
            limits: HelloLimits {
                record_bytes_max: u32::take(reader)?,
                message_bytes_max: u32::take(reader)?,
                reassembly_bytes_max: u32::take(reader)?,
                window_bytes: u32::take(reader)?,
                paused_actors_max: u32::take(reader)?,
            },
            nonce: reader.array("nonce")?,
            public: reader.array("public key")?,
            suites: take_suites(reader)?,
            name: take_name(reader)?,
            locations: take_locations(reader)?,
        };
        hello.check()?;
        Ok(hello)
    }

    fn check(&self) -> Result<(), Malformed> {
        let unknown = |field, value| Err(Malformed::Unknown { field, value });
        if self.version_min > self.version_max {
            return unknown("version range", self.version_min.into());
        }
        if self.flags & 0xffff != 0 {
            return unknown("hello flags", self.flags.into());
        }
        if !(1..=EPOCH_MAX).contains(&self.resume_state.epoch) {
            return unknown("epoch", self.resume_state.epoch);
        }
        let record_bytes_max = self.limits.record_bytes_max;
        if !(RECORD_BYTES_MAX_LEAST..=RECORD_BYTES_MAX_MOST).contains(&record_bytes_max) {
            return unknown("largest record", record_bytes_max.into());
        }
        if self.limits.window_bytes < WINDOW_BYTES_LEAST {
            return unknown("window", self.limits.window_bytes.into());
        }
        if self.limits.paused_actors_max < PAUSED_ACTORS_MAX_LEAST {
            return unknown("paused actors", self.limits.paused_actors_max.into());
        }
        Ok(())
    }

    /// Checks what only a dialler must state: its dials have numbers from 1.
    pub(crate) fn check_as_dialler(&self) -> Result<(), Malformed> {
        match self.resume_state.ordinal {
            0 => Err(Malformed::Unknown { field: "ordinal", value: 0 }),
            _ => Ok(()),
        }
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.push(u8::try_from(count).expect("`Profile::check` limits each count to a u8"));
}

fn take_suites(reader: &mut Reader<'_>) -> Result<SmallVec<[Suite; 8]>, Malformed> {
    let count = u8::take(reader)?;
    let numbers = reader.slice("suites", count.into())?;
    let suites: SmallVec<[Suite; 8]> =
        numbers.iter().filter_map(|number| Suite::from_number(*number)).collect();
    match suites.iter().find(|suite| suite.is_alone()) {
        Some(suite) if numbers.len() > 1 => {
            Err(Malformed::Unknown { field: "suites beside `plain` or `tls`", value: *suite as u64 })
        }
        Some(_) | None => Ok(suites),
    }
}

fn take_name(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    let length = usize::from(u8::take(reader)?);
    debug_assert!(length <= NAME_BYTES_MAX, "a u8 does not exceed the limit");
    Ok(reader.text("name", length)?.to_owned())
}

fn take_locations(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Malformed> {
    let count = u8::take(reader)?;
    if usize::from(count) > LOCATIONS_MAX {
        return Err(Malformed::TooLarge {
            field: "locations",
            value: count.into(),
            limit: LOCATIONS_MAX as u64,
        });
    }
    (0..count).map(|_| SocketAddr::take(reader)).collect()
}
