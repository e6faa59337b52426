//! SIGINT and SIGTERM as readiness of a pipe.

use std::io::{self, Read};
use std::os::unix::net::UnixStream as StdStream;

use mio::net::UnixStream;
use mio::{Interest, Registry};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;

use crate::readiness::SIGNALS;

pub(crate) struct Signals {
    pipe: UnixStream,
    ids: Vec<SigId>,
}

impl Signals {
    pub(crate) fn register(registry: &Registry) -> io::Result<Self> {
        let (pipe, writer) = StdStream::pair()?;
        pipe.set_nonblocking(true)?;
        let mut pipe = UnixStream::from_std(pipe);
        registry.register(&mut pipe, SIGNALS, Interest::READABLE)?;
        let mut signals = Self { pipe, ids: Vec::new() };
        for signal in [SIGINT, SIGTERM] {
            signals.ids.push(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(signals)
    }

    /// Empties the pipe, so that the next signal causes an event.
    pub(crate) fn drain(&mut self) {
        let mut bytes = [0; 64];
        while matches!(self.pipe.read(&mut bytes), Ok(n) if n > 0) {}
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            low_level::unregister(id);
        }
    }
}
