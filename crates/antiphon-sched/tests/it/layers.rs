//! Layers over TCP: when the loop calls them, and the events that follow. TLS is tested in its own crate.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;

use antiphon_sched::*;

use crate::station::*;

/// A layer in which each side sends `HELLO`, waits for that of the peer, and inverts all bits of the data. A stream
/// that ends without `END_MARK` is truncated.
struct TestLayer;

#[derive(Default)]
struct TestLayered {
    hello_sent: bool,
    hello_received: bool,
    end_sent: bool,
}

const HELLO: u8 = b'H';
/// Ends a stream; the data of the tests does not contain it.
const END_MARK: u8 = 0;

impl Layer for TestLayer {
    fn dialled(&self, _: IpAddr) -> io::Result<Box<dyn Layered>> {
        Ok(Box::new(TestLayered::default()))
    }

    fn accepted(&self) -> io::Result<Box<dyn Layered>> {
        Ok(Box::new(TestLayered::default()))
    }
}

impl Layered for TestLayered {
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        if !self.hello_sent {
            below.write_all(&[HELLO])?;
            self.hello_sent = true;
        }
        let mut byte = [0];
        if !self.hello_received && (below.read(&mut byte)? == 0 || byte != [HELLO]) {
            return Err(io::Error::other("no hello"));
        }
        self.hello_received = true;
        Ok(())
    }

    fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize> {
        let count = below.read(space)?;
        match space[..count].iter_mut().map(|byte| *byte = !*byte).count() {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(space[..count].iter().position(|byte| *byte == END_MARK).unwrap_or(count)),
        }
    }

    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize> {
        below.write(&bytes.iter().map(|byte| !*byte).collect::<Vec<u8>>())
    }

    fn flush(&mut self, _: &mut dyn Duplex) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        if self.end_sent { Ok(()) } else { below.write_all(&[!END_MARK]).map(|()| self.end_sent = true) }
    }

    fn unwritten(&self) -> usize {
        0
    }
}

/// An endpoint with the layer.
struct WithTestLayer<E>(E);

impl<E: Endpoint> Endpoint for WithTestLayer<E> {
    fn host(&self) -> io::Result<Host> {
        self.0.host()
    }

    fn layer(&self) -> Option<Rc<dyn Layer>> {
        Some(Rc::new(TestLayer))
    }
}

#[test]
fn layer_negotiated_opens_and_carries_data() {
    let mut station = Station::new(echo);
    let at = station.act(|cx| cx.listen(WithTestLayer("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    let bits = |text: &[u8]| text.iter().map(|byte| !*byte).collect::<Vec<u8>>();
    station.until("a pending connection", |station| station.events.stats().sockets == 2);
    assert!(station.heard.conns().is_empty(), "the connection opened before the hello of the peer");
    peer.write_all(&[&[HELLO][..], &bits(b"hello\n")].concat()).unwrap();
    let conn = station.until_accepted();
    station.until("the line", |station| station.heard.has(conn, "hello"));
    let mut received = [0; 7];
    peer.read_exact(&mut received).unwrap();
    assert_eq!(received.to_vec(), [&[HELLO][..], &bits(b"hello\n")].concat());
    // The peer ends gracefully, and so does the actor's side.
    peer.write_all(&[!END_MARK]).unwrap();
    assert_eq!(station.until_ended(conn), "opened hello closed");
    station.until("the end of the socket", |station| station.events.stats().sockets == 1);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [!END_MARK]);
}

#[test]
fn layer_failure_reaches_only_dialling_actor() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| cx.listen(WithTestLayer("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    peer.write_all(b"no hello").unwrap();
    station.until("a pending connection", |station| station.events.stats().sockets == 2);
    drop(peer);
    station.until("the refusal", |station| station.events.stats().sockets == 1);
    assert!(station.heard.conns().is_empty());

    let plain = station.listen(LINES);
    let conn = station.act(move |cx| cx.connect(WithTestLayer(plain), LINES, millis(50), Net::On));
    let log = station.until_ended(conn);
    assert_eq!(log, format!("closed: {}", SocketError::LayerTimedOut));
}

#[test]
fn layer_missing_end_mark_is_unexpected_eof() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| cx.listen(WithTestLayer("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    peer.write_all(&[HELLO, !b'1', !b'\n']).unwrap();
    let conn = station.until_accepted();
    // Unread bytes would turn the end into a reset.
    peer.read_exact(&mut [0]).unwrap();
    drop(peer);
    let log = station.until_ended(conn);
    assert_eq!(log, format!("opened 1 closed: {}", io::Error::from(ErrorKind::UnexpectedEof)));
}

#[test]
fn udp_with_layer_is_refused() {
    let mut station = Station::new(nothing);
    let reason = station.act(|cx| cx.udp(WithTestLayer("127.0.0.1:0"), Net::Datagram).unwrap_err());
    assert_eq!(reason.kind(), ErrorKind::InvalidInput);
    assert_eq!(reason.to_string(), SocketError::LayerOverUdp.to_string());
}
