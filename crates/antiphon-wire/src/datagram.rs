//! The datagrams by which nodes find each other over UDP.
//!
//! A datagram is only a hint. With a secret it is authenticated, but anyone can replay an old one. At worst a
//! datagram causes one dial, and the handshake of that dial shows the truth.

use ring::{hkdf, hmac};
use smallvec::{SmallVec, smallvec};
use subtle::ConstantTimeEq;

use crate::address::{Locations, Route};
use crate::bytes::{Field, Malformed, Reader};
use crate::ids::NodeId;
use crate::limits::{DATAGRAM_BYTES_MAX, NAME_BYTES_MAX};
use crate::secret::Secret;
use std::net::SocketAddr;

/// The content of one datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Datagram<'a> {
    /// A node makes itself known to all nodes on a network.
    Announce(Presence<'a>),
    /// A node asks which nodes are there. Padded to the largest datagram, so that no reply is larger than its probe.
    Probe(Probe<'a>),
    /// The reply to a probe or an announcement.
    ProbeReply(ProbeReply<'a>),
    /// A node leaves.
    Bye {
        /// The node.
        node: NodeId,
    },
}

/// A node with its name and locations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Presence<'a> {
    /// The id of this incarnation.
    pub node: NodeId,
    /// The node's name.
    pub name: &'a str,
    /// The locations at which it accepts connections, best first.
    pub locations: Locations<'a>,
}

/// The content of a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe<'a> {
    /// The node that asks.
    pub from: Presence<'a>,
    /// The UDP address for the replies, if it is not the source of the datagram.
    ///
    /// A probe reaches one node of a host, and that node forwards it to the other nodes of the host.
    pub reply_to: Option<SocketAddr>,
}

/// The content of a reply to a probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeReply<'a> {
    /// The node that replies.
    pub from: Presence<'a>,
    /// The other nodes of the same host, as many as fit.
    pub siblings: Route<'a>,
}

/// The keys that authenticate datagrams: one signs sent datagrams, all of them verify received ones.
///
/// The keys are derived from secrets and have no other use.
#[derive(Clone)]
pub struct DatagramKey {
    /// The first one signs.
    keys: SmallVec<[(u32, hmac::Key); 1]>,
}

/// Why a datagram is refused. The caller drops it, counts it, and logs it once for each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The datagram does not belong to this protocol.
    #[error("the datagram is not Antiphon's")]
    NotAntiphon,
    /// The datagram has another version.
    #[error("the datagram has version {version}; update the older node")]
    Version {
        /// The version in the datagram.
        version: u8,
    },
    /// The datagram has a key id that this node does not accept, or only one of the two sides uses a key.
    #[error(
        "the datagram has key id {theirs:?}, but this node uses {ours:?}; give both nodes the same secret and key id"
    )]
    KeyId {
        /// The key id in the datagram.
        theirs: Option<u32>,
        /// The key id that this node uses.
        ours: Option<u32>,
    },
    /// The MAC does not verify.
    #[error("the datagram was made with another secret, or is damaged; give both nodes the same secret")]
    Unauthentic,
    /// The fields do not parse.
    #[error("the datagram does not parse: {0}")]
    Malformed(#[from] Malformed),
    /// The datagram to send is larger than [`DATAGRAM_BYTES_MAX`].
    #[error("the datagram has {bytes} bytes, where 1200 are allowed; announce fewer locations or siblings")]
    TooLarge {
        /// The size of the datagram.
        bytes: usize,
    },
}

impl DatagramKey {
    /// Derives the key of one secret.
    pub fn new(id: u32, secret: &Secret) -> DatagramKey {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"antiphon datagrams");
        let extracted = salt.extract(secret.as_bytes());
        let key = extracted.expand(&[b"antiphon datagram key"], hmac::HMAC_SHA256);
        let key = hmac::Key::from(key.expect("one digest is within what HKDF expands to"));
        DatagramKey { keys: smallvec![(id, key)] }
    }

    /// Also accepts datagrams under another secret.
    pub fn accepting(mut self, id: u32, secret: &Secret) -> DatagramKey {
        self.keys.extend(DatagramKey::new(id, secret).keys);
        self
    }

    /// The key that signs, with its id.
    fn signing_key(&self) -> &(u32, hmac::Key) {
        self.keys.first().expect("a `DatagramKey` begins with one key")
    }

    fn key_with_id(&self, id: u32) -> Option<&hmac::Key> {
        self.keys.iter().find(|(known, _)| *known == id).map(|(_, key)| key)
    }
}

impl std::fmt::Debug for DatagramKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatagramKey").field("id", &self.signing_key().0).finish_non_exhaustive()
    }
}

impl<'a> Datagram<'a> {
    /// Replaces the content of `out` by the bytes of the datagram.
    ///
    /// # Errors
    /// [`DatagramError::TooLarge`] if the datagram is too large; `out` is then empty.
    pub fn encode(&self, key: Option<&DatagramKey>, out: &mut Vec<u8>) -> Result<(), DatagramError> {
        out.clear();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[VERSION, self.kind()]);
        key.map(|key| key.signing_key().0).put(out);
        self.put(out);
        let mac_bytes = if key.is_some() { MAC_BYTES } else { 0 };
        let bytes = out.len() + mac_bytes;
        if bytes > DATAGRAM_BYTES_MAX {
            out.clear();
            return Err(DatagramError::TooLarge { bytes });
        }
        if matches!(self, Datagram::Probe(_)) {
            out.resize(DATAGRAM_BYTES_MAX - mac_bytes, 0);
        }
        if let Some(key) = key {
            let mac = hmac::sign(&key.signing_key().1, out);
            out.extend_from_slice(mac.as_ref());
        }
        Ok(())
    }

    /// Decodes a received datagram. Before the MAC is verified, only the header is read.
    ///
    /// # Errors
    /// [`DatagramError`]; the datagram is to be dropped.
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
        let theirs: Option<u32> = Field::take(&mut reader)?;
        let verifier = theirs.and_then(|id| key?.key_with_id(id));
        if theirs.is_some() != key.is_some() || verifier.is_some() != key.is_some() {
            return Err(DatagramError::KeyId { theirs, ours: key.map(|key| key.signing_key().0) });
        }
        let mut body = reader.rest();
        if let Some(key) = verifier {
            let split = body.len().checked_sub(MAC_BYTES).ok_or(DatagramError::Unauthentic)?;
            let mac = hmac::sign(key, &bytes[..bytes.len() - MAC_BYTES]);
            let is_same: bool = mac.as_ref().ct_eq(&body[split..]).into();
            if !is_same {
                return Err(DatagramError::Unauthentic);
            }
            body = &body[..split];
        }
        if kind == PROBE && bytes.len() < DATAGRAM_BYTES_MAX {
            // An unpadded probe with a forged source would make the reply larger than the probe: an amplification
            // attack.
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
            Datagram::ProbeReply(reply) => {
                reply.from.put(out);
                reply.siblings.put(out);
            }
            Datagram::Bye { node } => node.put(out),
        }
    }

    /// Ignores bytes after the last field, which are padding or belong to later versions.
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
const MAC_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn presence(locations: &[SocketAddr]) -> Presence<'_> {
        Presence { node: NodeId::from_bits(9), name: "nine", locations: Locations::Plain(locations) }
    }

    #[test]
    fn datagram_each_kind_survives_encoding() {
        let locations: Vec<SocketAddr> =
            vec!["127.0.0.1:1".parse().expect("v4"), "[::1]:2".parse().expect("v6")];
        let siblings = [(NodeId::from_bits(3), locations.clone()), (NodeId::from_bits(4), Vec::new())];
        let from = presence(&locations);
        let all = [
            Datagram::Announce(from),
            Datagram::Probe(Probe { from, reply_to: Some(locations[1]) }),
            Datagram::ProbeReply(ProbeReply { from, siblings: Route::Plain(&siblings) }),
            Datagram::Bye { node: NodeId::from_bits(9) },
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
    fn datagram_wrong_key_or_damage_is_refused() {
        let key = DatagramKey::new(5, &Secret::from("key"));
        let mut bytes = Vec::new();
        let datagram = Datagram::Announce(presence(&[]));
        datagram.encode(Some(&key), &mut bytes).expect("small");
        let other = DatagramKey::new(5, &Secret::from("other"));
        assert_eq!(Datagram::decode(Some(&other), &bytes), Err(DatagramError::Unauthentic));
        let both = DatagramKey::new(6, &Secret::from("other")).accepting(5, &Secret::from("key"));
        assert_eq!(Datagram::decode(Some(&both), &bytes), Ok(datagram));
        let other = DatagramKey::new(6, &Secret::from("key"));
        let differ = |ours| DatagramError::KeyId { theirs: Some(5), ours };
        assert_eq!(Datagram::decode(Some(&other), &bytes), Err(differ(Some(6))));
        assert_eq!(Datagram::decode(None, &bytes), Err(differ(None)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let refused = Datagram::decode(Some(&key), &damaged);
            // The header: magic (4 bytes), version, kind, whether a key id follows, key id (4 bytes).
            let is_expected = matches!(
                (bit / 8, refused),
                (0..4, Err(DatagramError::NotAntiphon))
                    | (4, Err(DatagramError::Version { .. }))
                    | (6, Err(DatagramError::KeyId { theirs: None, .. } | DatagramError::Malformed(_)))
                    | (7..11, Err(DatagramError::KeyId { theirs: Some(_), .. }))
                    | (5 | 11.., Err(DatagramError::Unauthentic))
            );
            assert!(is_expected, "bit {bit}: {refused:?}");
        }
    }

    #[test]
    fn probe_without_full_padding_is_refused() {
        let mut bytes = Vec::new();
        let probe = Datagram::Probe(Probe { from: presence(&[]), reply_to: None });
        probe.encode(None, &mut bytes).expect("small");
        assert_eq!(Datagram::decode(None, &bytes), Ok(probe));
        for missing in [1, 1160] {
            bytes.truncate(DATAGRAM_BYTES_MAX - missing);
            let short = Malformed::Truncated { field: "a probe's padding", missing };
            assert_eq!(Datagram::decode(None, &bytes), Err(DatagramError::Malformed(short)));
        }
    }

    #[test]
    fn datagram_foreign_or_newer_has_distinct_error() {
        assert_eq!(Datagram::decode(None, b"GET /"), Err(DatagramError::NotAntiphon));
        assert_eq!(Datagram::decode(None, b"GET / HTTP"), Err(DatagramError::NotAntiphon));
        assert_eq!(Datagram::decode(None, b"ANTU\x02\x01\0"), Err(DatagramError::Version { version: 2 }));
        let too_long = [b"ANTU\x01\x04\0".as_slice(), &[0; 1200]].concat();
        assert_eq!(Datagram::decode(None, &too_long), Err(DatagramError::NotAntiphon));
    }

    #[test]
    fn probe_reply_too_large_is_not_encoded() {
        let location: SocketAddr = "[::1]:2".parse().expect("v6");
        let siblings: Vec<_> = (0..60).map(|node| (NodeId::from_bits(node), vec![location])).collect();
        let reply = ProbeReply { from: presence(&[]), siblings: Route::Plain(&siblings) };
        let mut bytes = Vec::new();
        let refused = Datagram::ProbeReply(reply).encode(None, &mut bytes);
        assert!(matches!(refused, Err(DatagramError::TooLarge { .. })));
        assert!(bytes.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_never_panic(mut bytes: Vec<u8>, kind in 0_u8..6) {
            let _fault = Datagram::decode(None, &bytes);
            // A sound header without a key, so that the fields are decoded.
            bytes.splice(0..0, [b"ANTU\x01".as_slice(), &[kind, 0]].concat());
            let _fault = Datagram::decode(None, &bytes);
            bytes.resize(DATAGRAM_BYTES_MAX, 0);
            let is_decoded = matches!(Datagram::decode(None, &bytes), Ok(_) | Err(DatagramError::Malformed(_)));
            assert!(is_decoded, "{kind}");
        }
    }
}
