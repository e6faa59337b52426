//! A layer over TCP: when it is called, and what is told of it. TLS itself is tested where it lives.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::rc::Rc;

use antiphon_sched::*;

use crate::station::*;

/// Each side sends a hand, wants to see one, and turns all bits of what follows; an end without a fist is cut short.
struct Handshake;

#[derive(Default)]
struct Shaking {
    sent: bool,
    seen: bool,
    ended: bool,
}

const HAND: u8 = b'H';
/// What ends a stream; no text holds it.
const FIST: u8 = 0;

impl Layer for Handshake {
    fn dialled(&self, _: IpAddr) -> io::Result<Box<dyn Layered>> {
        Ok(Box::new(Shaking::default()))
    }

    fn accepted(&self) -> io::Result<Box<dyn Layered>> {
        Ok(Box::new(Shaking::default()))
    }
}

impl Layered for Shaking {
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        if !self.sent {
            below.write_all(&[HAND])?;
            self.sent = true;
        }
        let mut byte = [0];
        if !self.seen && (below.read(&mut byte)? == 0 || byte != [HAND]) {
            return Err(io::Error::other("no hand"));
        }
        self.seen = true;
        Ok(())
    }

    fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize> {
        let count = below.read(space)?;
        match space[..count].iter_mut().map(|byte| *byte = !*byte).count() {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(space[..count].iter().position(|byte| *byte == FIST).unwrap_or(count)),
        }
    }

    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize> {
        below.write(&bytes.iter().map(|byte| !*byte).collect::<Vec<u8>>())
    }

    fn flush(&mut self, _: &mut dyn Duplex) -> io::Result<()> {
        Ok(())
    }

    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        if self.ended { Ok(()) } else { below.write_all(&[!FIST]).map(|()| self.ended = true) }
    }

    fn unwritten(&self) -> usize {
        0
    }
}

/// A place that brings the layer.
struct Shaken<E>(E);

impl<E: Endpoint> Endpoint for Shaken<E> {
    fn host(&self) -> io::Result<Host> {
        self.0.host()
    }

    fn layer(&self) -> Option<Rc<dyn Layer>> {
        Some(Rc::new(Handshake))
    }
}

#[test]
fn a_connection_is_told_of_when_its_layer_is_agreed_on_and_what_it_carries_goes_through_it() {
    let mut station = Station::new(echo);
    let at = station.act(|cx| cx.listen(Shaken("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    let bits = |text: &[u8]| text.iter().map(|byte| !*byte).collect::<Vec<u8>>();
    station.until("the stranger", |station| station.events.stats().sockets == 2);
    assert!(station.heard.conns().is_empty(), "it has shown no hand");
    peer.write_all(&[&[HAND][..], &bits(b"hello\n")].concat()).unwrap();
    let conn = station.until_accepted();
    station.until("the line", |station| station.heard.has(conn, "hello"));
    let mut heard = [0; 7];
    peer.read_exact(&mut heard).unwrap();
    assert_eq!(heard.to_vec(), [&[HAND][..], &bits(b"hello\n")].concat());
    // A good end, and its answer.
    peer.write_all(&[!FIST]).unwrap();
    assert_eq!(station.until_ended(conn), "opened hello closed");
    station.until("the end of the socket", |station| station.events.stats().sockets == 1);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [!FIST]);
}

#[test]
fn only_the_dialler_is_told_of_a_layer_that_came_to_nothing() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| cx.listen(Shaken("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    peer.write_all(b"no hand").unwrap();
    station.until("the stranger", |station| station.events.stats().sockets == 2);
    drop(peer);
    station.until("the refusal", |station| station.events.stats().sockets == 1);
    assert!(station.heard.conns().is_empty());

    let plain = station.listen(LINES);
    let conn = station.act(move |cx| cx.connect(Shaken(plain), LINES, millis(50), Net::On));
    let told = station.until_ended(conn);
    assert_eq!(told, format!("closed: {}", SocketError::LayerTimedOut));
}

#[test]
fn an_end_without_the_layers_word_is_told_as_an_error_after_all_that_came() {
    let mut station = Station::new(nothing);
    let at = station.act(|cx| cx.listen(Shaken("127.0.0.1:0"), LINES, Net::On).unwrap());
    let mut peer = TcpStream::connect(at).unwrap();
    peer.write_all(&[HAND, !b'1', !b'\n']).unwrap();
    let conn = station.until_accepted();
    // What were left unread would make a reset of the end.
    peer.read_exact(&mut [0]).unwrap();
    drop(peer);
    let told = station.until_ended(conn);
    assert_eq!(told, format!("opened 1 closed: {}", io::Error::from(ErrorKind::UnexpectedEof)));
}

#[test]
fn datagrams_have_no_layer() {
    let mut station = Station::new(nothing);
    let reason = station.act(|cx| cx.udp(Shaken("127.0.0.1:0"), Net::Datagram).unwrap_err());
    assert_eq!(reason.to_string(), SocketError::LayerOverUdp.to_string());
}
