//! Dials the victim with raw sockets from 127.0.0.2, and runs a handshake whose messages can be changed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use antiphon_wire::{
    Deframer, Epochs, Handshake, HandshakeError, HandshakeStep, Keyring, Limits, NodeId, Profile,
    ProvenConnection, ResumeState, Session, Suite,
};
use socket2::{Domain, Socket, Type};

use crate::common::{Net, PATIENCE};

/// The header of a handshake message: magic, kind, zero, length.
pub(crate) const HEADER_BYTES: usize = 8;

/// A socket bound to 127.0.0.2.
pub(crate) fn socket() -> Socket {
    socket_of([127, 0, 0, 2])
}

/// A socket bound to an address in 127.0.0.0/8.
pub(crate) fn socket_of(ip: [u8; 4]) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a descriptor is left");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("all of 127.0.0.0/8 is this machine");
    socket
}

/// A connection from 127.0.0.2.
pub(crate) fn connect(at: SocketAddr) -> TcpStream {
    try_connect(at).expect("the victim listens")
}

pub(crate) fn try_connect(at: SocketAddr) -> io::Result<TcpStream> {
    connect_by(socket(), at)
}

/// Connects a socket.
pub(crate) fn connect_by(socket: Socket, at: SocketAddr) -> io::Result<TcpStream> {
    socket.connect_timeout(&at.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends bytes, and returns the reply up to the end of the connection.
pub(crate) fn exchange(at: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(at);
    // The victim may close before it has read all.
    drop(stream.write_all(bytes));
    read_to_close(&mut stream)
}

/// Reads up to the end of the connection. Panics when the victim does not close it in time.
pub(crate) fn read_to_close(stream: &mut TcpStream) -> Vec<u8> {
    let mut reply = Vec::new();
    match stream.read_to_end(&mut reply) {
        Err(reason) if reason.kind() != io::ErrorKind::ConnectionReset => {
            panic!("the victim does not close: {reason}")
        }
        Ok(_) | Err(_) => reply,
    }
}

/// The profile of a node that has the secret.
pub(crate) fn profile(net: &Net, suites: &[Suite]) -> Profile {
    Profile {
        node: NodeId::from_bits(RandomState::new().build_hasher().finish()),
        name: "caller".into(),
        locations: Vec::new(),
        suites: suites.to_vec(),
        keyring: Keyring::new(0, net.secret.clone()),
        flags: 0,
        limits: Limits::default(),
    }
}

/// The hello of a dialler.
pub(crate) fn hello(net: &Net) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entropy = antiphon_dist::system_entropy().expect("the system has random numbers");
    drop(Handshake::dial(&profile(net, &Suite::aead()), entropy, ResumeState::unknown(1), None, &mut bytes));
    bytes
}

/// The four messages of a handshake, in order.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Message {
    DiallerHello,
    AcceptorHello,
    DiallerProof,
    AcceptorProof,
}

pub(crate) const MESSAGES: [Message; 4] =
    [Message::DiallerHello, Message::AcceptorHello, Message::DiallerProof, Message::AcceptorProof];

/// How a handshake failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The dialler refused the victim, or received a refusal from it.
    Refused(HandshakeError),
    /// The victim closed the connection, or sent nothing more in time.
    Silence,
}

/// A handshake that succeeded.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) stream: TcpStream,
    pub(crate) connection: Box<ProvenConnection>,
    pub(crate) input: Deframer,
}

/// Runs the handshake of an honest dialler; `change` may change each message on its way.
pub(crate) fn handshake(
    at: SocketAddr,
    profile: &Profile,
    patience: Duration,
    change: impl FnMut(Message, &mut Vec<u8>),
) -> Result<Proven, Failed> {
    let stream = connect(at);
    stream.set_read_timeout(Some(patience)).expect("a timeout can be set");
    handshake_on(stream, profile, 1, change)
}

/// Runs the handshake of a dialler with this epoch, on a stream.
pub(crate) fn handshake_on(
    mut stream: TcpStream,
    profile: &Profile,
    epoch: u64,
    mut change: impl FnMut(Message, &mut Vec<u8>),
) -> Result<Proven, Failed> {
    let (mut epochs, mut input, mut out) = (Epochs::default(), Deframer::new(), Vec::new());
    let entropy = antiphon_dist::system_entropy().expect("the system has random numbers");
    let resume_state = ResumeState::unknown(epoch);
    let mut dialler = Handshake::dial(profile, entropy, resume_state, None, &mut out);
    for [ours, theirs] in [[MESSAGES[0], MESSAGES[1]], [MESSAGES[2], MESSAGES[3]]] {
        change(ours, &mut out);
        stream.write_all(&out).map_err(|_| Failed::Silence)?;
        out.clear();
        let mut message = read_message(&mut stream).map_err(|_| Failed::Silence)?;
        change(theirs, &mut message);
        input.push(&message);
        match dialler.advance(profile, &mut input, &mut out).map_err(Failed::Refused)? {
            HandshakeStep::Introduced => {
                let resume_state =
                    Session::prove_to(None, &mut epochs, &dialler).expect("there is no session yet");
                dialler.prove(profile, resume_state, &mut out).map_err(Failed::Refused)?;
            }
            HandshakeStep::Done(connection) => return Ok(Proven { stream, connection, input }),
            HandshakeStep::Wait | HandshakeStep::Proven => return Err(Failed::Silence),
        }
    }
    Err(Failed::Silence)
}

/// Reads one message of a handshake.
pub(crate) fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; HEADER_BYTES];
    stream.read_exact(&mut message)?;
    let length = usize::from(u16::from_le_bytes([message[6], message[7]]));
    message.resize(HEADER_BYTES + length, 0);
    stream.read_exact(&mut message[HEADER_BYTES..])?;
    Ok(message)
}
