//! The hand-written bound: the bytes of a file over one TCP connection, written to a file and synced.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use super::{Files, folder_of};
use crate::pair;

const BLOCK_BYTES: usize = 256 * 1024;

pub(super) fn transfer() -> Vec<f64> {
    pair::run(
        |_, report| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
            let at = listener.local_addr().expect("the listener is bound");
            std::fs::create_dir(folder_of(at)).expect("a temporary folder can be made");
            report(at);
            let mut stream = listener.accept().expect("the partner dials").0;
            let mut file = File::create(folder_of(at).join("file")).expect("the folder is writable");
            copy(&mut stream, &mut file);
            file.sync_all().expect("the disk has space");
            stream.write_all(&[1]).expect("the partner waits");
        },
        |at, _| {
            let files = Files::new(at);
            let mut stream = TcpStream::connect(at).expect("the partner listens");
            let started = Instant::now();
            let mut file = File::open(files.source()).expect("the file exists");
            copy(&mut file, &mut stream);
            stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
            stream.read_exact(&mut [0]).expect("the partner confirms the file");
            files.mib_a_second(started.elapsed().as_secs_f64())
        },
    )
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match from.read(&mut block).expect("both ends are open") {
            0 => return,
            count => to.write_all(&block[..count]).expect("both ends are open"),
        }
    }
}
