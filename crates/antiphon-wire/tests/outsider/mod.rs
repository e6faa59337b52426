//! An independent client, written from docs/PROTOCOL.md alone. It uses ring and x25519-dalek, but nothing of the
//! tested crate.

use ring::{aead, digest, hkdf, hmac};
use x25519_dalek::{PublicKey, StaticSecret};

/// The random values of the client in one handshake.
pub(crate) struct ClientEntropy {
    pub(crate) private: [u8; 32],
    pub(crate) nonce: [u8; 32],
}

/// The variable fields of the client's hello.
pub(crate) struct ClientHello {
    pub(crate) node: u64,
    pub(crate) epoch: u64,
    pub(crate) known: u64,
    pub(crate) ordinal: u32,
    pub(crate) suite: u8,
    pub(crate) key_id: u32,
}

/// The fields that the client reads in the acceptor's hello.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AcceptorHello {
    pub(crate) node: u64,
    pub(crate) epoch: u64,
    pub(crate) known: u64,
    pub(crate) suite: u8,
    pub(crate) public: [u8; 32],
}

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"ANTI".to_vec();
    bytes.extend([kind, 0]);
    bytes.extend((body.len() as u16).to_le_bytes());
    bytes.extend(body);
    bytes
}

pub(crate) fn hello(hello: &ClientHello, entropy: &ClientEntropy) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(1_u16.to_le_bytes());
    body.extend(1_u16.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    body.extend(hello.key_id.to_le_bytes());
    body.extend(hello.node.to_le_bytes());
    body.extend(hello.epoch.to_le_bytes());
    body.extend(hello.known.to_le_bytes());
    body.extend(hello.ordinal.to_le_bytes());
    for limit in [65_536_u32, 1 << 24, 1 << 26, 1 << 20, 65_536] {
        body.extend(limit.to_le_bytes());
    }
    body.extend(entropy.nonce);
    body.extend(public(&entropy.private));
    body.extend([1, hello.suite]);
    body.push(8);
    body.extend(b"outsider");
    body.extend([1, 4, 127, 0, 0, 1]);
    body.extend(4242_u16.to_le_bytes());
    message(1, &body)
}

/// Removes the next handshake message from the front, and returns its kind and its bytes.
pub(crate) fn take_message(bytes: &mut Vec<u8>) -> (u8, Vec<u8>) {
    assert_eq!(bytes[..4], *b"ANTI");
    let length = 8 + usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
    let rest = bytes.split_off(length);
    let message = std::mem::replace(bytes, rest);
    (message[4], message)
}

/// Reads an acceptor's hello from the whole message.
pub(crate) fn read_hello(message: &[u8]) -> AcceptorHello {
    let body = &message[8..];
    let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(body[124], 1, "the acceptor chooses one suite");
    AcceptorHello {
        node: number(12),
        epoch: number(20),
        known: number(28),
        public: body[92..124].try_into().expect("32 bytes"),
        suite: body[125],
    }
}

pub(crate) fn public(private: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*private)).to_bytes()
}

pub(crate) fn agree(private: &[u8; 32], peer: &[u8; 32]) -> [u8; 32] {
    StaticSecret::from(*private).diffie_hellman(&PublicKey::from(*peer)).to_bytes()
}

pub(crate) fn transcript(dialler: &[u8], acceptor: &[u8]) -> [u8; 32] {
    let hash = digest::digest(&digest::SHA256, &[dialler, acceptor].concat());
    hash.as_ref().try_into().expect("32 bytes")
}

/// HKDF-SHA256 by two HMACs: extract, then one block of expand.
pub(crate) fn derive(secret: &str, agreed: &[u8; 32], label: &str, transcript: &[u8; 32]) -> [u8; 32] {
    let extracted = mac(secret.as_bytes(), agreed);
    mac(&extracted, &[label.as_bytes(), transcript, &[1]].concat())
}

pub(crate) fn mac(key: &[u8], bytes: &[u8]) -> [u8; 32] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, bytes).as_ref().try_into().expect("32 bytes")
}

/// The key of datagrams, derived by ring's HKDF.
pub(crate) fn datagram_key(secret: &str) -> [u8; 32] {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"antiphon datagrams").extract(secret.as_bytes());
    let mut key = [0; 32];
    let okm = extracted.expand(&[b"antiphon datagram key"], hkdf::HKDF_SHA256).expect("32 bytes");
    okm.fill(&mut key).expect("32 bytes");
    key
}

/// The message of a proof. `keys` are the proof key and the resume keys; `None` under plain.
pub(crate) fn proof(
    role: &str,
    transcript: &[u8; 32],
    resumes: bool,
    next: u64,
    keys: Option<(&[u8; 32], &[[u8; 32]])>,
) -> Vec<u8> {
    let mut claim = vec![u8::from(resumes)];
    claim.extend(next.to_le_bytes());
    let mut body = claim.clone();
    let (kind, resume_role) = match role {
        "antiphon dialler proves" => (3, "antiphon dialler resumes"),
        _ => (4, "antiphon acceptor resumes"),
    };
    match keys {
        None => body.extend([0, 0]),
        Some((key, resume_keys)) => {
            body.push(1);
            body.extend(mac(key, &[role.as_bytes(), transcript, &claim].concat()));
            body.push(resume_keys.len() as u8);
            for key in resume_keys {
                body.extend(mac(key, &[resume_role.as_bytes(), transcript, &claim].concat()));
            }
        }
    }
    message(kind, &body)
}

/// Seals or opens the records of one direction of one connection.
pub(crate) struct ClientRecords {
    pub(crate) suite: u8,
    pub(crate) key: [u8; 32],
    pub(crate) number: u64,
}

impl ClientRecords {
    fn aead(&self) -> Option<aead::LessSafeKey> {
        let (algorithm, length) = match self.suite {
            1 => (&aead::AES_128_GCM, 16),
            2 => (&aead::CHACHA20_POLY1305, 32),
            _ => return None,
        };
        Some(aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &self.key[..length]).expect("a key")))
    }

    fn nonce(&mut self) -> aead::Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.number.to_le_bytes());
        self.number += 1;
        aead::Nonce::assume_unique_for_key(nonce)
    }

    pub(crate) fn seal(&mut self, body: &[u8]) -> Vec<u8> {
        let tag = match self.suite {
            1 | 2 => 16,
            3 => 32,
            _ => 0,
        };
        let mut record = ((body.len() + tag) as u16).to_le_bytes().to_vec();
        record.extend([1, 0]);
        let mut sealed = body.to_vec();
        match (self.aead(), self.suite) {
            (Some(key), _) => {
                let nonce = self.nonce();
                key.seal_in_place_append_tag(nonce, aead::Aad::from(&record), &mut sealed).expect("seals");
            }
            (None, 3) => {
                let tag = mac(&self.key, &[&self.number.to_le_bytes(), record.as_slice(), body].concat());
                self.number += 1;
                sealed.extend(tag);
            }
            (None, _) => {}
        }
        record.extend(sealed);
        record
    }

    /// Removes the next record from the front and opens it.
    pub(crate) fn open(&mut self, bytes: &mut Vec<u8>) -> Vec<u8> {
        let length = 4 + usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let rest = bytes.split_off(length);
        let record = std::mem::replace(bytes, rest);
        let (header, sealed) = record.split_at(4);
        assert_eq!(header[2..], [1, 0]);
        match (self.aead(), self.suite) {
            (Some(key), _) => {
                let mut body = sealed.to_vec();
                let nonce = self.nonce();
                key.open_in_place(nonce, aead::Aad::from(header), &mut body).expect("opens").to_vec()
            }
            (None, 3) => {
                let (body, tag) = sealed.split_at(sealed.len() - 32);
                assert_eq!(mac(&self.key, &[&self.number.to_le_bytes(), header, body].concat()), tag);
                self.number += 1;
                body.to_vec()
            }
            (None, _) => sealed.to_vec(),
        }
    }
}

pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Splits the body of a record into the kinds and payloads of its frames.
pub(crate) fn frames(mut body: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !body.is_empty() {
        let length = usize::from(u16::from_le_bytes([body[2], body[3]]));
        frames.push((body[0], body[4..4 + length].to_vec()));
        body = &body[4 + length..];
    }
    frames
}
