//! Frames as an attacker makes them: the right kinds with wrong fields, wrong kinds, and values that were seen.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// One frame.
#[derive(Arbitrary, Debug)]
pub struct Crafted {
    /// Which kind, of those that exist, or any.
    pub kind: Kind,
    /// Its payload.
    pub fields: Vec<Field>,
}

/// The kind of a frame.
#[derive(Arbitrary, Debug)]
pub enum Kind {
    /// One that exists, by its place in the table.
    Known(u8),
    /// Any, with any flags.
    Any(u8, u8),
}

/// Part of a payload.
#[derive(Arbitrary, Debug)]
pub enum Field {
    /// One byte.
    Byte(u8),
    /// A small number of eight bytes.
    Small(u8),
    /// Any number of eight bytes.
    Any(u64),
    /// Four bytes: a tag, a stream, a length.
    Word(u8),
    /// An actor of the victim.
    Actor(u8),
    /// A number that the victim has sent: a request, a port, a key.
    Seen(u8),
    /// A node: the victim, or one of the attackers.
    Node(u8),
    /// A text with its length before it.
    Text(Vec<u8>),
    /// As it is.
    Raw(Vec<u8>),
    /// MessagePack.
    Body(Pack),
}

/// A value of MessagePack.
#[derive(Arbitrary, Debug)]
pub enum Pack {
    /// nil
    Nil,
    /// A byte's number.
    Small(u8),
    /// Any number.
    Any(u64),
    /// An actor of the victim, by its key.
    Actor(u8),
    /// A number that was seen.
    Seen(u8),
    /// A node.
    Node(u8),
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Pack>),
    /// Node and key: an address as it travels.
    Addr(u8, u8),
    /// Node and port: a reply as it travels.
    Reply(u8, u8),
}

/// What stands for the numbers of [`Field`] and [`Pack`].
pub trait Numbers {
    /// An actor of the victim.
    fn actor(&self, which: u8) -> u64;
    /// A number that the victim has sent.
    fn seen(&self, which: u8) -> u64;
    /// A node.
    fn node(&self, which: u8) -> u64;
}

/// The kinds that exist, as in the table of PROTOCOL.md.
fn known(place: u8) -> u8 {
    let kinds = antiphon_wire::Frame::KINDS;
    kinds[usize::from(place) % kinds.len()].0
}

impl Crafted {
    /// Appends header and payload; what is too long for its length is cut.
    pub fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        let (kind, flags) = match self.kind {
            Kind::Known(place) => (known(place), 0),
            Kind::Any(kind, flags) => (kind, flags),
        };
        let mut payload = Vec::new();
        self.fields.iter().for_each(|field| field.put(numbers, &mut payload));
        payload.truncate(16 * 1024);
        out.extend([kind, flags]);
        out.extend((payload.len() as u16).to_le_bytes());
        out.extend(payload);
    }
}

impl Field {
    fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        match self {
            Self::Byte(byte) => out.push(*byte),
            Self::Small(number) => out.extend(u64::from(*number).to_le_bytes()),
            Self::Any(number) => out.extend(number.to_le_bytes()),
            Self::Word(number) => out.extend(u32::from(*number).to_le_bytes()),
            Self::Actor(which) => out.extend(numbers.actor(*which).to_le_bytes()),
            Self::Seen(which) => out.extend(numbers.seen(*which).to_le_bytes()),
            Self::Node(which) => out.extend(numbers.node(*which).to_le_bytes()),
            Self::Text(text) => {
                let text = &text[..text.len().min(300)];
                out.extend((text.len() as u16).to_le_bytes());
                out.extend(text);
            }
            Self::Raw(bytes) => out.extend(bytes),
            Self::Body(pack) => pack.put(numbers, out),
        }
    }
}

impl Pack {
    fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        let number = |number: u64, out: &mut Vec<u8>| {
            out.push(0xcf);
            out.extend(number.to_be_bytes());
        };
        match self {
            Self::Nil => out.push(0xc0),
            Self::Small(small) if *small < 0x80 => out.push(*small),
            Self::Small(small) => out.extend([0xcc, *small]),
            Self::Any(any) => number(*any, out),
            Self::Actor(which) => number(numbers.actor(*which), out),
            Self::Seen(which) => number(numbers.seen(*which), out),
            Self::Node(which) => number(numbers.node(*which), out),
            Self::Text(text) => {
                out.push(0xda);
                out.extend((text.len() as u16).to_be_bytes());
                out.extend(text.as_bytes());
            }
            Self::Bytes(bytes) => {
                out.push(0xc5);
                out.extend((bytes.len() as u16).to_be_bytes());
                out.extend(bytes);
            }
            Self::Array(items) => {
                match items.len() {
                    few @ 0..16 => out.push(0x90 | few as u8),
                    many => out.extend([&[0xdc], &(many as u16).to_be_bytes()[..]].concat()),
                }
                items.iter().for_each(|item| item.put(numbers, out));
            }
            Self::Addr(node, actor) => {
                out.push(0x92);
                number(numbers.node(*node), out);
                number(numbers.actor(*actor), out);
            }
            Self::Reply(node, port) => {
                out.push(0x92);
                number(numbers.node(*node), out);
                number(numbers.seen(*port), out);
            }
        }
    }
}
