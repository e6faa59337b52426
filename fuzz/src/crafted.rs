//! The frames of an attacker: valid ones with observed or guessed values, and arbitrary bytes.

use antiphon_wire::Frame;
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// One frame of an attacker.
#[derive(Arbitrary, Debug)]
pub enum Crafted {
    /// A message: receiver, body, and the number of its receipt.
    Message(Number, Body, Option<Number>),
    /// A reply to a request.
    Answer(Number, Body),
    /// A frame of a known kind, with fields of the right sizes. `surplus` may add bytes at the end or cut some off.
    Known { kind: u8, numbers: [Number; 5], text: Text, body: Body, surplus: i8 },
    /// Any kind, flags and payload. Only some inputs send it, since it ends the session.
    Any(u8, u8, Vec<u8>),
}

/// A number of eight bytes: a key, a request id, a count.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Number {
    /// An actor of the victim.
    Actor(u8),
    /// A number that the victim has sent.
    Observed(u8),
    /// A node: the victim, or one of the attackers.
    Node(u8),
    /// A small number.
    Small(u8),
    /// Any number.
    Any(u64),
}

/// A text, often one that exists as a name.
#[derive(Arbitrary, Debug)]
pub enum Text {
    /// One of the known names.
    Known(u8),
    /// Any bytes.
    Any(Vec<u8>),
}

/// Names that the victim registers or looks up, and names of types.
const NAMES: [&str; 8] = ["sink", "echo", "channel", "rci", "far", "str", "fuzz.ask/1", "files"];

/// The content of a message.
#[derive(Arbitrary, Debug)]
pub enum Body {
    /// A message to the channel.
    Channel(u8, [Number; 4], bool),
    /// A call of the RCI.
    Call([Number; 4], bool),
    /// A request to the actor `echo`.
    Ask(u8, [Number; 2]),
    /// A reply of a service: a kind and numbers.
    Kinded(u8, [Number; 3]),
    /// A text.
    Text(Vec<u8>),
    /// Any MessagePack, under any tag.
    Any(u8, Pack),
    /// Any bytes.
    Raw(u8, Vec<u8>),
}

/// A value of MessagePack.
#[derive(Arbitrary, Debug)]
pub enum Pack {
    /// The value nil.
    Nil,
    /// A number.
    Number(Number),
    /// A text or bytes.
    Bytes(Vec<u8>),
    /// An array.
    Array(Vec<Pack>),
}

/// Resolves a [`Number`] to a value.
pub trait Numbers {
    /// An actor of the victim.
    fn actor(&self, which: u8) -> u64;
    /// A number that the victim has sent.
    fn observed(&self, which: u8) -> u64;
    /// A node.
    fn node(&self, which: u8) -> u64;
}

impl Number {
    fn of(self, numbers: &impl Numbers) -> u64 {
        match self {
            Self::Actor(which) => numbers.actor(which),
            Self::Observed(which) => numbers.observed(which),
            Self::Node(which) => numbers.node(which),
            Self::Small(number) => number.into(),
            Self::Any(number) => number,
        }
    }
}

/// The payload layout of each kind, as in PROTOCOL.md, one letter for each field:
///
/// | letter | field |
/// |---|---|
/// | `k` | eight bytes |
/// | `w` | four bytes with a small number |
/// | `1` | one byte with a small number |
/// | `?` | an optional number |
/// | `r` | an empty route |
/// | `t` | a text |
/// | `l` | one location |
/// | `g` | a tag and its body |
/// | `b` | a body |
fn layout(kind: u8) -> &'static str {
    match kind {
        0x07 | 0x34 => "1",
        0x20 => "wt",
        0x21 => "w1b",
        0x22 => "kk?rg",
        0x23 => "kkrg",
        0x24 | 0x25 => "k1",
        0x26 | 0x27 | 0x29 => "kkk",
        0x28 => "kkkk1b",
        0x2a => "kk?",
        0x2d => "kkk1",
        0x2e => "kk1",
        0x2b | 0x2c => "kkg",
        0x30 => "k11t",
        0x32 => "k1kw",
        0x33 => "kktl",
        _ => "k",
    }
}

impl Crafted {
    /// Appends header and payload; the payload is cut to 16 KiB.
    pub fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let (kind, flags) = match self {
            Self::Message(to, body, receipt) => {
                let receipt = receipt.map(|receipt| receipt.of(numbers));
                put_message(to.of(numbers), receipt, body, numbers, &mut payload);
                (0x22, 0)
            }
            Self::Answer(to, body) => {
                put_answer(to.of(numbers), body, numbers, &mut payload);
                (0x23, 0)
            }
            Self::Known { kind, numbers: values, text, body, surplus } => {
                let (kind, _) = Frame::KINDS[usize::from(*kind) % Frame::KINDS.len()];
                let mut values = values.iter().map(|number| number.of(numbers));
                let mut next = || values.next().unwrap_or_else(|| numbers.actor(0));
                for part in layout(kind).chars() {
                    put_part(part, &mut next, text, body, numbers, &mut payload);
                }
                // Most values change nothing, since only frames of the right length get past the decoder.
                match *surplus {
                    many @ 100.. => payload.resize(payload.len() + usize::from(many as u8) - 99, 0),
                    few @ ..-100 => {
                        payload.truncate(payload.len().saturating_sub(usize::from(few.unsigned_abs()) - 99))
                    }
                    -100..100 => {}
                }
                (kind, 0)
            }
            Self::Any(kind, flags, bytes) if bytes.len() % 8 == 7 => {
                payload.extend(bytes);
                (*kind, *flags)
            }
            Self::Any(..) => return,
        };
        payload.truncate(16 * 1024);
        out.extend([kind, flags]);
        out.extend((payload.len() as u16).to_le_bytes());
        out.extend(payload);
    }
}

fn put_message(to: u64, receipt: Option<u64>, body: &Body, numbers: &impl Numbers, out: &mut Vec<u8>) {
    out.extend(to.to_le_bytes());
    out.extend(9_u64.to_le_bytes());
    out.extend(body.tag().to_le_bytes());
    out.push(receipt.is_some().into());
    receipt.iter().for_each(|receipt| out.extend(receipt.to_le_bytes()));
    out.extend([0, 0]);
    body.put(numbers, out);
}

fn put_answer(to: u64, body: &Body, numbers: &impl Numbers, out: &mut Vec<u8>) {
    out.extend(to.to_le_bytes());
    out.extend(9_u64.to_le_bytes());
    out.extend(body.tag().to_le_bytes());
    out.extend([0, 0]);
    body.put(numbers, out);
}

fn put_part(
    part: char,
    next: &mut impl FnMut() -> u64,
    text: &Text,
    body: &Body,
    numbers: &impl Numbers,
    out: &mut Vec<u8>,
) {
    match part {
        'k' => out.extend(next().to_le_bytes()),
        'w' => out.extend((next() as u32 % 16).to_le_bytes()),
        '1' => out.push(next() as u8 % 8),
        '?' => {
            let number = next();
            out.push((number % 2) as u8);
            if number % 2 == 1 {
                out.extend(number.to_le_bytes());
            }
        }
        'r' => out.extend([0, 0]),
        't' => {
            let text = match text {
                Text::Known(which) => NAMES[usize::from(*which) % NAMES.len()].as_bytes(),
                Text::Any(bytes) => &bytes[..bytes.len().min(300)],
            };
            out.extend((text.len() as u16).to_le_bytes());
            out.extend(text);
        }
        'l' => out.extend([1, 4, 127, 0, 0, next() as u8, 7, 7]),
        'g' => {
            out.extend(body.tag().to_le_bytes());
            body.put(numbers, out);
        }
        _ => body.put(numbers, out),
    }
}

impl Body {
    /// The tag of the type of this body: an index into [`TAGS`](crate::victim::TAGS).
    fn tag(&self) -> u32 {
        match self {
            Self::Text(_) => 0,
            Self::Ask(..) => 1,
            Self::Channel(..) => 2,
            Self::Call(..) => 3,
            Self::Kinded(kind, _) => 4 + u32::from(*kind % 4),
            Self::Any(tag, _) | Self::Raw(tag, _) => (*tag % 12).into(),
        }
    }

    fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        match self {
            Self::Channel(kind, values, has_reply) => put_channel(*kind, values, *has_reply, numbers, out),
            Self::Call([node, key, caller, request], has_watcher) => {
                out.extend([0x94, 0]);
                if *has_watcher {
                    pair(*node, *key, numbers, out);
                } else {
                    out.push(0xc0);
                }
                pair(*caller, *request, numbers, out);
                text(b"end", out);
            }
            Self::Ask(kind, [node, key]) => {
                out.push(0x81);
                match kind % 3 {
                    0 => {
                        text(b"Echo", out);
                        out.push(0x92);
                        text(b"hello", out);
                    }
                    1 => text(b"Tell", out),
                    _ => text(b"Keep", out),
                }
                pair(*node, *key, numbers, out);
            }
            Self::Kinded(kind, values) => {
                // Most replies have two parts.
                let parts = 1 + usize::from(kind / 8) % 4;
                out.extend([0x90 | (parts as u8 + 1), *kind % 8]);
                values.iter().cycle().take(parts).for_each(|value| number(*value, numbers, out));
            }
            Self::Text(bytes) => text(&bytes[..bytes.len().min(200)], out),
            Self::Any(_, pack) => pack.put(numbers, out),
            Self::Raw(_, bytes) => out.extend(bytes),
        }
    }
}

/// Appends a message to a topic actor: see `channels/message.rs` of antiphon-dist.
fn put_channel(
    kind: u8,
    [a, b, c, d]: &[Number; 4],
    has_reply: bool,
    numbers: &impl Numbers,
    out: &mut Vec<u8>,
) {
    let reply = |out: &mut Vec<u8>| {
        out.push(0x90 | u8::from(has_reply));
        if has_reply {
            pair(*c, *d, numbers, out);
        }
    };
    let kind = kind % 8;
    let parts = [3, 4, 3, 4, 2, 3, 4, 2][usize::from(kind)];
    out.extend([0x90 | parts, kind]);
    match kind {
        0 => {
            number(*a, numbers, out);
            text(b"to all", out);
        }
        1 => {
            out.push(0x93);
            [a, b, &Number::Small(0)].iter().for_each(|each| number(**each, numbers, out));
            pair(*c, *d, numbers, out);
            text(b"to all", out);
        }
        2 => {
            pair(*a, *b, numbers, out);
            reply(out);
        }
        3 => {
            pair(*a, *b, numbers, out);
            out.push(0xc2 | u8::from(has_reply));
            reply(out);
        }
        4 | 7 => pair(*a, *b, numbers, out),
        5 => {
            pair(*a, *b, numbers, out);
            number(*c, numbers, out);
        }
        _ => {
            pair(*a, *b, numbers, out);
            out.push(0x91);
            pair(*a, *c, numbers, out);
            reply(out);
        }
    }
}

/// Appends an address or a reply handle in its encoded form: a node and a key.
fn pair(node: Number, key: Number, numbers: &impl Numbers, out: &mut Vec<u8>) {
    out.push(0x92);
    number(node, numbers, out);
    number(key, numbers, out);
}

fn number(value: Number, numbers: &impl Numbers, out: &mut Vec<u8>) {
    match value.of(numbers) {
        small @ 0..0x80 => out.push(small as u8),
        large => {
            out.push(0xcf);
            out.extend(large.to_be_bytes());
        }
    }
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend([0xd9, bytes.len() as u8]);
    out.extend(bytes);
}

impl Pack {
    fn put(&self, numbers: &impl Numbers, out: &mut Vec<u8>) {
        match self {
            Self::Nil => out.push(0xc0),
            Self::Number(value) => number(*value, numbers, out),
            Self::Bytes(bytes) => {
                out.push(0xc5);
                out.extend((bytes.len() as u16).to_be_bytes());
                out.extend(bytes);
            }
            Self::Array(items) => {
                out.push(0xdc);
                out.extend((items.len() as u16).to_be_bytes());
                items.iter().for_each(|item| item.put(numbers, out));
            }
        }
    }
}
