//! A man in the middle without the secret: it sees each handshake message and each record between two nodes, and can
//! change them.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::caller::{read_message, try_connect};

/// The number of handshake messages that each side sends.
pub(crate) const HANDSHAKE_PIECES: usize = 2;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToVictim,
    ToPeer,
}

/// A message of a handshake, or a record.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) direction: Direction,
    /// The number of the connection, and the number of the piece in this direction; the first two are of the handshake.
    pub(crate) connection: usize,
    pub(crate) index: usize,
    pub(crate) bytes: Vec<u8>,
}

/// The bytes to forward in place of a piece.
pub(crate) enum Forward {
    Bytes(Vec<u8>),
    /// The connection is cut after these bytes.
    Last(Vec<u8>),
}

type Edit = Arc<Mutex<dyn FnMut(Piece) -> Forward + Send>>;

/// Listens on 127.0.0.2, and carries pieces to a victim and back; `edit` decides what to forward.
pub(crate) fn start(victim: SocketAddr, edit: impl FnMut(Piece) -> Forward + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").expect("a port is free");
    let at = listener.local_addr().expect("the listener is bound");
    let edit: Edit = Arc::new(Mutex::new(edit));
    std::thread::spawn(move || {
        for (connection, peer) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(victim) = try_connect(victim) else { return };
            peer.set_nodelay(true).expect("an option can be set");
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
            let directions = [
                (Direction::ToVictim, copy(&peer), copy(&victim)),
                (Direction::ToPeer, copy(&victim), copy(&peer)),
            ];
            for (direction, mut from, mut to) in directions {
                let edit = edit.clone();
                std::thread::spawn(move || {
                    // The copy ends when one side closes.
                    drop(carry(direction, connection, &mut from, &mut to, &edit));
                    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
                });
            }
        }
    });
    at
}

fn carry(
    direction: Direction,
    connection: usize,
    from: &mut TcpStream,
    to: &mut TcpStream,
    edit: &Edit,
) -> io::Result<()> {
    for index in 0.. {
        let bytes = if index < HANDSHAKE_PIECES { read_message(from)? } else { read_record(from)? };
        let piece = Piece { direction, connection, index, bytes };
        match (edit.lock().expect("no holder of the lock panics"))(piece) {
            Forward::Bytes(bytes) => to.write_all(&bytes)?,
            Forward::Last(bytes) => return to.write_all(&bytes),
        }
    }
    Ok(())
}

/// Reads one record: the length of its body, version, flags, body.
fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut record = vec![0; 4];
    stream.read_exact(&mut record)?;
    let length = usize::from(u16::from_le_bytes([record[0], record[1]]));
    record.resize(4 + length, 0);
    stream.read_exact(&mut record[4..])?;
    Ok(record)
}
