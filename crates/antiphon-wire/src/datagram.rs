//! Datagrams: how nodes find each other over UDP.
//!
//! A datagram is a hint and nothing more. It is authenticated if there is a secret, but it may be old and sent again by
//! anybody: the worst that one can bring about is one dial, whose handshake then tells the truth.

use ring::{hkdf, hmac};
use smallvec::{SmallVec, smallvec};
use subtle::ConstantTimeEq;

use crate::address::{Locations, Route};
use crate::bytes::{Field, Malformed, Reader};
use crate::ids::NodeId;
use crate::limits::{DATAGRAM_BYTES_MAX, NAME_BYTES_MAX};
use crate::secret::Secret;
use std::net::SocketAddr;

/// What one datagram says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Datagram<'a> {
    /// I am here: to everybody.
    Announce(Presence<'a>),
    /// Who is there? Padded to the largest datagram, so that no answer is larger than its question.
    Probe(Probe<'a>),
    /// I am: the answer to a probe or an announce.
    ProbeReply(ProbeReply<'a>),
    /// I leave.
    Bye {
        /// Who.
        node: NodeId,
    },
}

/// Who is where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Presence<'a> {
    /// The incarnation.
    pub node: NodeId,
    /// The node's name.
    pub name: &'a str,
    /// Where it can be dialled, best first.
    pub locations: Locations<'a>,
}

/// A question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe<'a> {
    /// Who asks.
    pub from: Presence<'a>,
    /// Where to answer, if not where it came from: a probe reaches one of the nodes on a host, which repeats it to the others.
    pub reply_to: Option<SocketAddr>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeReply<'a> {
    /// Who answers.
    pub from: Presence<'a>,
    /// Other nodes on the same host, as many as fit.
    pub siblings: Route<'a>,
}

/// Authenticates datagrams: those sent under one key, those received under any that is accepted. Derived from secrets,
/// and used for nothing else.
#[derive(Clone)]
pub struct DatagramKey {
    /// The first signs.
    keys: SmallVec<[(u32, hmac::Key); 1]>,
}

/// Why a datagram is dropped. Count it; log it once an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// Not one of this protocol.
    #[error("a datagram that is none of Antiphon's")]
    NotAntiphon,
    /// Of another version.
    #[error("a datagram of version {version}; update the older node")]
    Version {
        /// As sent.
        version: u8,
    },
    /// Under another key id, or under none where this side has one, or the other way round.
    #[error(
        "a datagram under key id {told:?}, where this node has {ours:?}; give both nodes the same secret and key id"
    )]
    KeyId {
        /// As sent.
        told: Option<u32>,
        /// This side's.
        ours: Option<u32>,
    },
    /// The tag does not fit.
    #[error("a datagram with another secret, or damaged; give both nodes the same secret")]
    Unauthentic,
    /// Its fields do not parse.
    #[error("a datagram that does not parse: {0}")]
    Malformed(#[from] Malformed),
    /// To be sent, and larger than a datagram may be.
    #[error("a datagram of {bytes} bytes, where 1200 are allowed; tell fewer locations or siblings")]
    TooLarge {
        /// Its bytes.
        bytes: usize,
    },
}

impl DatagramKey {
    /// The key that this secret stands for.
    pub fn new(id: u32, secret: &Secret) -> DatagramKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"antiphon datagrams");
        let extracted = salt.extract(secret.as_bytes());
        let key = extracted.expand(&[b"antiphon datagram key"], hmac::HMAC_SHA256);
        let key = hmac::Key::from(key.expect("one digest is within what HKDF expands to"));
        DatagramKey { keys: smallvec![(id, key)] }
    }

    /// Accepts datagrams under a further secret.
    pub fn accepting(mut self, id: u32, secret: &Secret) -> DatagramKey {
        self.keys.extend(DatagramKey::new(id, secret).keys);
        self
    }

    /// What signs, and its id.
    fn own(&self) -> &(u32, hmac::Key) {
        self.keys.first().expect("a key is made of a secret")
    }

    fn of_id(&self, id: u32) -> Option<&hmac::Key> {
        self.keys.iter().find(|(own, _)| *own == id).map(|(_, key)| key)
    }
}

impl std::fmt::Debug for DatagramKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramKey").field("id", &self.own().0).finish_non_exhaustive()
    }
}

impl<'a> Datagram<'a> {
    /// Writes the datagram over whatever `out` held.
    ///
    /// # Errors
    /// [`DatagramError::TooLarge`]; `out` is empty then.
    pub fn encode(&self, key: Option<&DatagramKey>, out: &mut Vec<u8>) -> Result<(), DatagramError> {
        out.clear();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind()]);
        key.map(|key| key.own().0).put(out);
        self.put(out);
        let tag_bytes = if key.is_some() { TAG_BYTES } else { 0 };
        let bytes = out.len() + tag_bytes;
        if bytes > DATAGRAM_BYTES_MAX {
            out.clear();
            return Err(DatagramError::TooLarge { bytes });
        }
        if matches!(self, Datagram::Probe(_)) {
            out.resize(DATAGRAM_BYTES_MAX - tag_bytes, 0);
        }
        if let Some(key) = key {
            let tag = hmac::sign(&key.own().1, out);
            out.extend_from_slice(tag.as_ref());
        }
        Ok(())
    }

    /// Reads a datagram that was received.
    ///
    /// # Errors
    /// [`DatagramError`]: drop it. Nothing but the header is looked at before the tag holds.
    pub fn decode(key: Option<&DatagramKey>, bytes: &'a [u8]) -> Result<Datagram<'a>, DatagramError> {
        let mut reader = Reader::new(bytes);
        let Ok([magic @ .., version, kind]) = reader.array::<6>("header") else {
            return Err(DatagramError::NotAntiphon);
        };
        if magic != MAGIC || bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(DatagramError::NotAntiphon);
        }
        if version != VERSION {
            return Err(DatagramError::Version { version });
        }
        let told: Option<u32> = Field::take(&mut reader)?;
        let under = told.and_then(|told| key?.of_id(told));
        if told.is_some() != key.is_some() || under.is_some() != key.is_some() {
            return Err(DatagramError::KeyId { told, ours: key.map(|key| key.own().0) });
        }
        let mut body = reader.rest();
        if let Some(key) = under {
            let split = body.len().checked_sub(TAG_BYTES).ok_or(DatagramError::Unauthentic)?;
            let tag = hmac::sign(key, &bytes[..bytes.len() - TAG_BYTES]);
            let is_same: bool = tag.as_ref().ct_eq(&body[split..]).into();
            if !is_same {
                return Err(DatagramError::Unauthentic);
            }
            body = &body[..split];
        }
        if kind == PROBE && bytes.len() < DATAGRAM_BYTES_MAX {
            // Whoever it names as the asker would be sent more than it cost to name them.
            let missing = DATAGRAM_BYTES_MAX - bytes.len();
            return Err(Malformed::Truncated { field: "a probe's padding", missing }.into());
        }
        Ok(Datagram::take(kind, Reader::new(body))?)
    }

    fn kind(&self) -> u8 {
        match self {
            Datagram::Announce(_) => 1,
            Datagram::Probe(_) => PROBE,
            Datagram::ProbeReply(_) => 3,
            Datagram::Bye { .. } => 4,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Datagram::Announce(presence) => presence.put(out),
            Datagram::Probe(probe) => {
                probe.from.put(out);
                probe.reply_to.put(out);
            }
            Datagram::ProbeReply(answer) => {
                answer.from.put(out);
                answer.siblings.put(out);
            }
            Datagram::Bye { node } => node.put(out),
        }
    }

    /// Bytes after the last field are padding, or belong to later versions.
    fn take(kind: u8, mut reader: Reader<'a>) -> Result<Datagram<'a>, Malformed> {
        let reader = &mut reader;
        Ok(match kind {
            1 => Datagram::Announce(Field::take(reader)?),
            PROBE => Datagram::Probe(Probe { from: Field::take(reader)?, reply_to: Field::take(reader)? }),
            3 => Datagram::ProbeReply(ProbeReply {
                from: Field::take(reader)?,
                siblings: Field::take(reader)?,
            }),
            4 => Datagram::Bye { node: Field::take(reader)? },
            kind => return Err(Malformed::Unknown { field: "datagram kind", value: kind.into() }),
        })
    }
}

impl<'a> Field<'a> for Presence<'a> {
    fn size(&self) -> usize {
        self.node.size() + self.name.size() + self.locations.size()
    }

    fn put(&self, out: &mut Vec<u8>) {
        self.node.put(out);
        self.name.put(out);
        self.locations.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Presence<'a>, Malformed> {
        let (node, name) = (NodeId::take(reader)?, <&str>::take(reader)?);
        if name.len() > NAME_BYTES_MAX {
            let (value, limit) = (name.len() as u64, NAME_BYTES_MAX as u64);
            return Err(Malformed::TooLarge { field: "name", value, limit });
        }
        Ok(Presence { node, name, locations: Field::take(reader)? })
    }
}

const MAGIC: [u8; 4] = *b"ANTU";
const VERSION: u8 = 1;
const PROBE: u8 = 2;
const TAG_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(locations: &[SocketAddr]) -> Presence<'_> {
        Presence { node: NodeId(9), name: "nine", locations: Locations::Plain(locations) }
    }

    #[test]
    fn each_kind_comes_back_as_it_was_sent_with_and_without_a_key() {
        let locations: Vec<SocketAddr> =
            vec!["127.0.0.1:1".parse().expect("v4"), "[::1]:2".parse().expect("v6")];
        let siblings = [(NodeId(3), locations.clone()), (NodeId(4), Vec::new())];
        let from = presence(&locations);
        let all = [
            Datagram::Announce(from),
            Datagram::Probe(Probe { from, reply_to: Some(locations[1]) }),
            Datagram::ProbeReply(ProbeReply { from, siblings: Route::Plain(&siblings) }),
            Datagram::Bye { node: NodeId(9) },
        ];
        let key = DatagramKey::new(5, &Secret::from("key"));
        let mut bytes = Vec::new();
        for datagram in all {
            for key in [None, Some(&key)] {
                datagram.encode(key, &mut bytes).expect("small");
                assert_eq!(Datagram::decode(key, &bytes), Ok(datagram));
                let is_probe = matches!(datagram, Datagram::Probe(_));
                assert_eq!(bytes.len() == DATAGRAM_BYTES_MAX, is_probe, "only a probe is padded");
            }
        }
    }

    #[test]
    fn another_secret_another_key_id_no_key_and_every_flipped_bit_are_refused() {
        let key = DatagramKey::new(5, &Secret::from("key"));
        let mut bytes = Vec::new();
        Datagram::Announce(presence(&[])).encode(Some(&key), &mut bytes).expect("small");
        let other = DatagramKey::new(5, &Secret::from("other"));
        assert_eq!(Datagram::decode(Some(&other), &bytes), Err(DatagramError::Unauthentic));
        let both = DatagramKey::new(6, &Secret::from("other")).accepting(5, &Secret::from("key"));
        assert!(Datagram::decode(Some(&both), &bytes).is_ok());
        let other = DatagramKey::new(6, &Secret::from("key"));
        let differ = |ours| DatagramError::KeyId { told: Some(5), ours };
        assert_eq!(Datagram::decode(Some(&other), &bytes), Err(differ(Some(6))));
        assert_eq!(Datagram::decode(None, &bytes), Err(differ(None)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Datagram::decode(Some(&key), &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_probe_that_is_shorter_than_its_answer_may_be_is_refused() {
        let mut bytes = Vec::new();
        Datagram::Probe(Probe { from: presence(&[]), reply_to: None })
            .encode(None, &mut bytes)
            .expect("small");
        assert!(Datagram::decode(None, &bytes).is_ok());
        bytes.pop();
        let short = Malformed::Truncated { field: "a probe's padding", missing: 1 };
        assert_eq!(Datagram::decode(None, &bytes), Err(DatagramError::Malformed(short)));
        bytes.truncate(40);
        assert!(Datagram::decode(None, &bytes).is_err());
    }

    #[test]
    fn garbage_and_later_versions_are_told_apart() {
        assert_eq!(Datagram::decode(None, b"GET /"), Err(DatagramError::NotAntiphon));
        assert_eq!(Datagram::decode(None, b"GET / HTTP"), Err(DatagramError::NotAntiphon));
        assert_eq!(Datagram::decode(None, b"ANTU\x02\x01\0"), Err(DatagramError::Version { version: 2 }));
        let too_long = [b"ANTU\x01\x04\0".as_slice(), &[0; 1200]].concat();
        assert_eq!(Datagram::decode(None, &too_long), Err(DatagramError::NotAntiphon));
    }

    #[test]
    fn too_many_siblings_are_refused_before_they_are_sent() {
        let location: SocketAddr = "[::1]:2".parse().expect("v6");
        let siblings: Vec<_> = (0..60).map(|node| (NodeId(node), vec![location])).collect();
        let answer = ProbeReply { from: presence(&[]), siblings: Route::Plain(&siblings) };
        let mut bytes = Vec::new();
        let refused = Datagram::ProbeReply(answer).encode(None, &mut bytes);
        assert!(matches!(refused, Err(DatagramError::TooLarge { .. })));
        assert!(bytes.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes: Vec<u8>) {
            let _fault = Datagram::decode(None, &bytes);
            bytes.splice(0..0, *b"ANTU\x01");
            let _fault = Datagram::decode(None, &bytes);
        }
    }
}
