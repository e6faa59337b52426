//! Whoever sits between two nodes without knowing their secret: sees every message and every record, and passes on what
//! he likes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::caller::{read_message, try_connect};

/// Messages of a handshake that one side sends.
pub(crate) const HANDSHAKE_PIECES: usize = 2;

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToVictim,
    ToPeer,
}

/// A whole message of a handshake, or a whole record.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) way: Way,
    /// Which connection, and which piece of it in this direction; the first two are the handshake's.
    pub(crate) connection: usize,
    pub(crate) index: usize,
    pub(crate) bytes: Vec<u8>,
}

/// What is passed on in place of a piece.
pub(crate) enum Passed {
    Bytes(Vec<u8>),
    /// These, and then the connection is cut.
    Last(Vec<u8>),
}

type Edit = Arc<Mutex<dyn FnMut(Piece) -> Passed + Send>>;

/// Listens on 127.0.0.2, and carries pieces to a victim and back as `edit` says. Ends with the test.
pub(crate) fn between(victim: SocketAddr, edit: impl FnMut(Piece) -> Passed + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let at = listener.local_addr().expect("it is bound");
    let edit: Edit = Arc::new(Mutex::new(edit));
    std::thread::spawn(move || {
        for (connection, peer) in listener.incoming().map_while(Result::ok).enumerate() {
            let Ok(victim) = try_connect(victim) else { return };
            peer.set_nodelay(true).expect("an option can be set");
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
            let ways =
                [(Way::ToVictim, copy(&peer), copy(&victim)), (Way::ToPeer, copy(&victim), copy(&peer))];
            for (way, mut from, mut to) in ways {
                let edit = edit.clone();
                std::thread::spawn(move || {
                    // One side or the other ends it.
                    drop(carry(way, connection, &mut from, &mut to, &edit));
                    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
                });
            }
        }
    });
    at
}

fn carry(
    way: Way,
    connection: usize,
    from: &mut TcpStream,
    to: &mut TcpStream,
    edit: &Edit,
) -> io::Result<()> {
    for index in 0.. {
        let bytes = if index < HANDSHAKE_PIECES { read_message(from)? } else { read_record(from)? };
        let piece = Piece { way, connection, index, bytes };
        match (edit.lock().expect("nobody panics"))(piece) {
            Passed::Bytes(bytes) => to.write_all(&bytes)?,
            Passed::Last(bytes) => return to.write_all(&bytes),
        }
    }
    Ok(())
}

/// A whole record: the length of what follows, version, flags; and that.
fn read_record(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut record = vec![0; 4];
    stream.read_exact(&mut record)?;
    let length = usize::from(u16::from_le_bytes([record[0], record[1]]));
    record.resize(4 + length, 0);
    stream.read_exact(&mut record[4..])?;
    Ok(record)
}
