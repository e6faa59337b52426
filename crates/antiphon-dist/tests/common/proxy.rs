//! A proxy between two nodes that cuts its connections again and again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// About 50 ms, unevenly, so that timers with a multiple of 50 ms do not stay in step with the cuts.
const CUT_AFTER: [Duration; 3] =
    [Duration::from_millis(45), Duration::from_millis(55), Duration::from_millis(50)];
const DELAY: Duration = Duration::from_millis(10);

/// Carries bytes between its diallers and one server, and cuts all connections at intervals.
pub(crate) struct Proxy {
    pub(crate) at: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    bytes: AtomicU64,
    connections: AtomicU64,
    is_closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr) -> Self {
        Self::start_slower(server, 1)
    }

    /// Like [`Proxy::start`], with intervals that are `slower` times as long.
    pub(crate) fn start_slower(server: SocketAddr, slower: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let at = listener.local_addr().expect("the listener is bound");
        let shared = Arc::new(Shared::default());
        let carrying = shared.clone();
        std::thread::spawn(move || {
            for dialler in listener.incoming().map_while(Result::ok) {
                if carrying.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                // With this latency, a side that waits too briefly would dial another location.
                std::thread::sleep(DELAY);
                carrying.carry(&dialler, &TcpStream::connect(server).expect("the server listens"));
            }
        });
        let cutting = shared.clone();
        std::thread::spawn(move || {
            for pause in CUT_AFTER.iter().cycle() {
                if cutting.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::sleep(*pause * slower);
                cutting.cut();
            }
        });
        Self { at, shared }
    }

    /// The number of connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The number of bytes so far, in both directions.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Closes all connections, and accepts no more.
    pub(crate) fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        // Ends the wait for the next dialler.
        drop(TcpStream::connect(self.at));
        self.shared.cut();
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, dialler: &TcpStream, server: &TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
        for (mut from, mut to) in [(copy(dialler), copy(server)), (copy(server), copy(dialler))] {
            let shared = self.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                // The other side may have closed first.
                drop(to.shutdown(Shutdown::Both));
            });
        }
        self.open.lock().expect("no holder of the lock panics").extend([copy(dialler), copy(server)]);
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("no holder of the lock panics").drain(..) {
            // The connection may be closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}
