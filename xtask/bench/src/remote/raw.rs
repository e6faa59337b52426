//! The hand-written bounds: length-prefixed messages over one TCP connection, without actors, names, sessions or
//! serialisation.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::time::Instant;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{ECHO_BYTES, ONE_WAY, ROUND_TRIPS};
use crate::pair;

const HEADER_BYTES: usize = 4;
const FRAME_BYTES: usize = HEADER_BYTES + ECHO_BYTES;
const TAG_BYTES: usize = 16;
const BATCH_BYTES: usize = 60 * 1024;

/// An echo on mio, one message at a time.
pub(super) fn round_trip() -> Vec<f64> {
    pair::run(
        |_, report| {
            let mut stream = FrameStream::new(accept(report));
            while let Some(message) = stream.receive() {
                stream.send(&message);
            }
        },
        |at, _| {
            let mut stream = FrameStream::new(StdStream::connect(at).expect("the partner listens"));
            let mut nanos = Vec::with_capacity(ROUND_TRIPS);
            for _ in 0..ROUND_TRIPS {
                let started = Instant::now();
                stream.send(&[7; FRAME_BYTES]);
                stream.receive().expect("the partner answers");
                nanos.push(started.elapsed().as_nanos() as u64);
            }
            pair::percentiles(&nanos)
        },
    )
}

/// Messages of 24 bytes.
pub(super) fn one_way_small() -> Vec<f64> {
    one_way::<24>()
}

/// Messages of 60 bytes.
pub(super) fn one_way_body() -> Vec<f64> {
    one_way::<60>()
}

/// Messages in sealed batches, each in one write.
fn one_way<const BYTES: usize>() -> Vec<f64> {
    pair::run(
        |_, report| {
            let mut stream = accept(report);
            let mut seals = Seals::new();
            let mut count = 0;
            let mut batch = Vec::new();
            while count < ONE_WAY {
                seals.read(&mut stream, &mut batch).expect("the partner writes whole batches");
                let frames = batch.chunks_exact(HEADER_BYTES + BYTES);
                count += frames.filter(|frame| frame[0] as usize == BYTES).count() as u64;
            }
            stream.write_all(&[1]).expect("the partner waits");
            // The partner closes the connection when it has read the byte.
            let closed = stream.read(&mut [0]);
            debug_assert!(closed.is_ok_and(|count| count == 0));
        },
        |at, _| {
            let mut stream = StdStream::connect(at).expect("the partner listens");
            let mut seals = Seals::new();
            let started = Instant::now();
            let mut batch = Vec::with_capacity(BATCH_BYTES + TAG_BYTES);
            let mut left = ONE_WAY;
            while left > 0 {
                batch.clear();
                batch.extend_from_slice(&[0; HEADER_BYTES]);
                while left > 0 && batch.len() + HEADER_BYTES + BYTES < BATCH_BYTES {
                    batch.extend_from_slice(&(BYTES as u32).to_le_bytes());
                    batch.extend_from_slice(std::hint::black_box(&[left as u8; BYTES]));
                    left -= 1;
                }
                seals.write(&mut stream, &mut batch).expect("the partner reads");
            }
            stream.read_exact(&mut [0]).expect("the partner confirms the messages");
            pair::rate(ONE_WAY, started)
        },
    )
}

fn accept(report: &dyn Fn(SocketAddr)) -> StdStream {
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    report(listener.local_addr().expect("the listener is bound"));
    listener.accept().expect("the partner dials").0
}

/// One connection that carries frames, on an event queue.
struct FrameStream {
    stream: TcpStream,
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
}

impl FrameStream {
    fn new(stream: StdStream) -> Self {
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("the socket is open");
        let mut stream = TcpStream::from_std(stream);
        let poll = Poll::new().expect("the system has an event queue");
        poll.registry()
            .register(&mut stream, Token(0), Interest::READABLE)
            .expect("the socket is not registered yet");
        Self { stream, poll, events: Events::with_capacity(8), buffer: Vec::new() }
    }

    fn send(&mut self, message: &[u8]) {
        self.stream.write_all(message).expect("the send buffer has space for one frame");
    }

    /// The next message; `None` when the other side has closed the connection.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut space = [0; 4096];
        while self.buffer.len() < FRAME_BYTES {
            match self.stream.read(&mut space) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&space[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.poll.poll(&mut self.events, None).expect("the event queue works");
                }
                Err(_) => return None,
            }
        }
        let rest = self.buffer.split_off(FRAME_BYTES);
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}

/// Seals and opens batches. The nonce is a counter over both directions.
struct Seals {
    key: LessSafeKey,
    number: u64,
}

impl Seals {
    fn new() -> Self {
        let key = UnboundKey::new(&AES_128_GCM, &[9; 16]).expect("16 bytes are a key");
        Self { key: LessSafeKey::new(key), number: 0 }
    }

    fn nonce(&mut self) -> Nonce {
        self.number += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals the bytes after the header, and writes header, bytes and tag.
    fn write(&mut self, stream: &mut StdStream, batch: &mut Vec<u8>) -> io::Result<()> {
        let length = (batch.len() - HEADER_BYTES + TAG_BYTES) as u32;
        let header = length.to_le_bytes();
        let nonce = self.nonce();
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(header), &mut batch[HEADER_BYTES..])
            .map_err(io::Error::other)?;
        batch[..HEADER_BYTES].copy_from_slice(&header);
        batch.extend_from_slice(tag.as_ref());
        stream.write_all(batch)
    }

    /// Reads and opens the next batch.
    fn read(&mut self, stream: &mut StdStream, batch: &mut Vec<u8>) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header)?;
        batch.resize(u32::from_le_bytes(header) as usize, 0);
        stream.read_exact(batch)?;
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(header), batch).map_err(io::Error::other)?.len();
        batch.truncate(opened);
        Ok(())
    }
}
