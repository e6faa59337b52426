//! Checks the bodies of the messages of channels, functions and files against docs/vectors/services.txt.
//!
//! After a change of the protocol, `ANTIPHON_WRITE_VECTORS=1 cargo test -p antiphon-dist --lib vectors` rewrites the
//! vectors.

use std::fmt::Write as _;
use std::path::PathBuf;

use antiphon_sched::testing::{decode_as, encode_as};
use antiphon_sched::{ActorId, Addr, Key, NodeId, ReplyTo, Wire};

use crate::cx::Named;
use crate::location::Location;
use crate::service::channel::{self, Channel};
use crate::service::file;
use crate::service::rci::{self, Rci};

/// The node that asks.
pub(crate) const ASKER: NodeId = NodeId::from_bits(1);
/// The node with the channel, the function or the file service.
pub(crate) const SERVER: NodeId = NodeId::from_bits(2);

pub(crate) fn asker(key: u64) -> ActorId {
    ActorId::new(ASKER, Key::from_bits(key))
}

pub(crate) fn server(key: u64) -> ActorId {
    ActorId::new(SERVER, Key::from_bits(key))
}

/// The reply to request 9 of the asker.
pub(crate) fn reply<R: Wire>() -> ReplyTo<R> {
    decode_as(SERVER, &[0x92, 1, 9]).expect("a node and a request id are a reply")
}

/// The lines of the file.
pub(crate) struct ServiceVectors(String);

impl ServiceVectors {
    /// Adds a message, which must survive its encoding.
    pub(crate) fn add<T: Wire>(&mut self, what: &str, message: &T) {
        let bytes = encode_as(ASKER, message).expect("the message has an encoding");
        let decoded: T = decode_as(SERVER, &bytes).unwrap_or_else(|reason| panic!("{what}: {reason}"));
        assert_eq!(encode_as(SERVER, &decoded).as_ref(), Ok(&bytes), "{what}");
        self.line(&T::name(), what, &bytes);
    }

    /// Adds bytes that are no message of this type.
    pub(crate) fn refuse<T: Wire>(&mut self, reason: &str, bytes: &[u8]) {
        assert!(decode_as::<T>(SERVER, bytes).is_err(), "{} | {reason}", T::name());
        self.line(&format!("refused {}", T::name()), reason, bytes);
    }

    fn line(&mut self, tag: &str, what: &str, bytes: &[u8]) {
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a String takes every text");
            hex
        });
        writeln!(self.0, "{tag} | {what}: {hex}").expect("a String takes every text");
    }

    fn comment(&mut self, text: &str) {
        writeln!(self.0, "# {text}").expect("a String takes every text");
    }
}

#[test]
fn service_messages_match_vectors() {
    let mut vectors = ServiceVectors(String::new());
    vectors.comment(
        "Bodies of the messages of channels, functions and files, and addresses. `tag | what: MessagePack`.",
    );
    vectors.comment("`refused TAG | reason: MessagePack`: one value, but no message of this tag.");
    vectors.comment("Node 1 asks by its request 9, node 2 serves.");
    vectors.add("an actor: node and key", &Addr::<String>::of(asker(7)));
    vectors.add("a reply: node and request id", &reply::<u64>());
    vectors.add("a channel: node and key", &Channel::<String>::from_id(server(8)));
    vectors.add("a function: node and key", &Rci::<(String, u64), String>::from_id(server(8)));
    vectors.add("a location", &Location::new(([127, 0, 0, 1], 9705).into()));
    vectors.refuse::<Addr<String>>("an address of three parts", &[0x93, 1, 7, 0]);
    vectors.refuse::<Addr<String>>("an address whose key is a text", &[0x92, 1, 0xa1, b'7']);
    vectors.refuse::<ReplyTo<u64>>("a reply without its request", &[0x91, 1]);
    channel::add_vectors(&mut vectors);
    rci::add_vectors(&mut vectors);
    file::add_vectors(&mut vectors);
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vectors/services.txt"));
    if std::env::var_os("ANTIPHON_WRITE_VECTORS").is_some() {
        std::fs::write(&path, &vectors.0).expect("the folder exists");
    }
    let written = std::fs::read_to_string(&path).expect("the file exists");
    for (line, (written, expected)) in written.lines().zip(vectors.0.lines()).enumerate() {
        assert_eq!(written, expected, "line {}", line + 1);
    }
    assert_eq!(written.lines().count(), vectors.0.lines().count(), "the number of lines");
}

/// The tags by which a lookup shows the types of a channel and of a function.
#[test]
fn lookup_tags_are_types_of_messages() {
    let mut sched = antiphon_sched::testing::TestLoop::new(1);
    let mut loop_ref = sched.loop_ref();
    let channel = Channel::<Option<String>>::tag(&mut loop_ref);
    assert_eq!(channel, "opt<str>");
    let function = Rci::<(String, u64), String>::tag(&mut loop_ref);
    assert_eq!(function, "(str,u64) -> str");
}
