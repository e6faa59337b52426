//! A way between two nodes that is cut again and again.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every 50 ms, unevenly: a timer that is a multiple of that must meet a cut connection too.
const CUT_AFTER: [Duration; 3] =
    [Duration::from_millis(45), Duration::from_millis(55), Duration::from_millis(50)];
const DELAY: Duration = Duration::from_millis(10);

/// Carries bytes between whoever dials it and one server, and cuts every connection after a while.
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

    /// Cuts so many times less often.
    pub(crate) fn start_slower(server: SocketAddr, slower: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared::default());
        let carrying = shared.clone();
        std::thread::spawn(move || {
            for dialler in listener.incoming().map_while(Result::ok) {
                if carrying.is_closed.load(Ordering::SeqCst) {
                    return;
                }
                // A way so long that a side which is too impatient would look for another.
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

    /// Connections that it has carried.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes that it has carried, both ways.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Carries nothing any more.
    pub(crate) fn close(&self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        // Wakes whoever accepts.
        drop(TcpStream::connect(self.at));
        self.shared.cut();
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, one: &TcpStream, other: &TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is left");
        for (mut from, mut to) in [(copy(one), copy(other)), (copy(other), copy(one))] {
            let shared = self.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 16 * 1024];
                while let Ok(count @ 1..) = from.read(&mut bytes) {
                    shared.bytes.fetch_add(count as u64, Ordering::SeqCst);
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                // The other side hears of it; it may have gone first.
                drop(to.shutdown(Shutdown::Both));
            });
        }
        self.open.lock().expect("nobody panics").extend([copy(one), copy(other)]);
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("nobody panics").drain(..) {
            // It may be closed already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}
