//! By hand: the bytes of a file over one TCP connection, written to a file and synced.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use super::{Files, folder_of};
use crate::pair;

const BLOCK_BYTES: usize = 256 * 1024;

pub(super) fn transfer() -> Vec<f64> {
    pair::run(
        |_, tell| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
            let at = listener.local_addr().expect("it is bound");
            std::fs::create_dir(folder_of(at)).expect("there is room");
            tell(at);
            let mut stream = listener.accept().expect("the partner dials").0;
            let mut file = File::create(folder_of(at).join("file")).expect("the folder is ours");
            copy(&mut stream, &mut file);
            file.sync_all().expect("there is room");
            stream.write_all(&[1]).expect("the partner waits");
        },
        |at, _| {
            let files = Files::new(at);
            let mut stream = TcpStream::connect(at).expect("the partner listens");
            let begun = Instant::now();
            let mut file = File::open(files.source()).expect("it is there");
            copy(&mut file, &mut stream);
            stream.shutdown(std::net::Shutdown::Write).expect("it is open");
            stream.read_exact(&mut [0]).expect("the partner tells when it has all");
            files.mib_a_second(begun.elapsed().as_secs_f64())
        },
    )
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match from.read(&mut block).expect("both ends work") {
            0 => return,
            count => to.write_all(&block[..count]).expect("both ends work"),
        }
    }
}
