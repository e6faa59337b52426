//! One TLS connection over any stream: what rustls has to be asked, and when.
//!
//! Invariant: whoever reads fewer bytes than there was room for has emptied the stream below, since its readiness is told once,
//! or is told by [`TlsConnection::take_cut`] that more may be there; what was taken to be written and did not fit waits here, and then
//! nothing more is taken.

use std::io::{self, Read, Write};

use antiphon_sched::Duplex;
use antiphon_wire::{EXPORTER_LABEL, TlsFault};
use rustls::{Connection, Error, InvalidMessage};

use super::verifier::fault_of;
use crate::certificates::Fingerprint;
use crate::node::OverTls;

pub(super) struct TlsConnection {
    tls: Connection,
    /// Bytes that the peer may still send until TLS is agreed on; `None` when it is.
    budget: Option<usize>,
    /// The last read stopped for the others' sake.
    cut: bool,
    /// What ends the session, once all that came before it was read.
    failed: Option<TlsFault>,
    /// Bytes that were taken to be written, and may wait here.
    unwritten: usize,
}

impl TlsConnection {
    /// A session that takes so many bytes at once to be written.
    pub(super) fn new(mut tls: Connection, write_bytes_max: usize) -> Self {
        tls.set_buffer_limit(Some(write_bytes_max));
        Self { tls, budget: Some(HANDSHAKE_BYTES_MAX), cut: false, failed: None, unwritten: 0 }
    }

    /// Whether TLS is still to be agreed on.
    pub(super) fn is_opening(&self) -> bool {
        self.budget.is_some()
    }

    /// Whether nothing of the peer has been read.
    pub(super) fn is_untouched(&self) -> bool {
        self.budget == Some(HANDSHAKE_BYTES_MAX)
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.tls, Connection::Server(_))
    }

    /// Agrees on TLS, as far as the peer has come: `WouldBlock` until then, `UnexpectedEof` when the peer has gone.
    pub(super) fn agree(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        loop {
            self.flush_some(below)?;
            if !self.tls.is_handshaking() {
                self.budget = None;
                return Ok(());
            }
            let count = self.receive(below)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.budget = self.budget.and_then(|budget| budget.checked_sub(count));
            if self.budget.is_none() {
                return Err(io::Error::other(TlsFault::Broken));
            }
        }
    }

    /// What TLS tells of the peer, once it is agreed on.
    pub(super) fn told(&mut self, below: &mut dyn Duplex) -> io::Result<OverTls> {
        self.export().map_err(|reason| self.fail(below, &reason))
    }

    fn export(&self) -> Result<OverTls, Error> {
        let presented = self.tls.peer_certificates().and_then(|chain| chain.first());
        let certificate = presented.map(|own| Fingerprint::of(own));
        let certificate = certificate.ok_or(Error::NoCertificatesPresented)?;
        let exporter = self.tls.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
        Ok(OverTls { exporter, certificate })
    }

    /// Reads; 0 when the peer has said that it ends, and [`TlsFault::CutShort`] when it ended without.
    pub(super) fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize> {
        let (mut filled, mut received, mut end) = (0, 0, None);
        while filled < space.len() {
            match self.tls.reader().read(&mut space[filled..]) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    continue;
                }
                Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {}
                Err(reason) if reason.kind() == io::ErrorKind::UnexpectedEof => {
                    end = Some(io::Error::new(reason.kind(), TlsFault::CutShort));
                    break;
                }
                Err(reason) => return Err(reason),
            }
            if received >= RECEIVED_AT_ONCE {
                self.cut = true;
                break;
            }
            match self.receive(below) {
                Ok(count) => received += count,
                // Records that came before a bad one are sound: what they held is read first.
                Err(reason) if self.failed.is_none() && TlsFault::of(&reason).is_some() => {
                    self.failed = TlsFault::of(&reason)
                }
                Err(reason) if filled == 0 => return Err(reason),
                Err(_) => {
                    self.cut |= self.failed.is_some();
                    break;
                }
            }
        }
        // What TLS itself has to answer. What was read counts, whether or not anybody hears the answer.
        let flushed = self.flush_some(below);
        match end {
            _ if filled > 0 => Ok(filled),
            Some(reason) => Err(reason),
            // Not the end, which is what no bytes would mean.
            None if self.cut => flushed.and(Err(io::ErrorKind::WouldBlock.into())),
            None => flushed.map(|()| 0),
        }
    }

    /// Whether the last read stopped before the stream below was empty: records without content could go on for ever.
    pub(super) fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.cut)
    }

    /// Reads once from below, and opens what has arrived.
    fn receive(&mut self, below: &mut dyn Duplex) -> io::Result<usize> {
        if let Some(fault) = self.failed {
            return Err(io::Error::other(fault));
        }
        let count = loop {
            match self.tls.read_tls(below) {
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        match self.tls.process_new_packets() {
            Ok(_) => Ok(count),
            Err(reason) => Err(self.fail(below, &reason)),
        }
    }

    /// Tells the peer of a failure, as far as that can be done at once.
    fn fail(&mut self, below: &mut dyn Duplex, reason: &Error) -> io::Error {
        let is_no_tls = matches!(reason, Error::InvalidMessage(InvalidMessage::InvalidContentType));
        let fault = if is_no_tls && self.is_untouched() { TlsFault::OneSided } else { fault_of(reason) };
        tracing::debug!(%reason, "TLS failed");
        drop(self.flush(below));
        io::Error::other(fault)
    }

    pub(super) fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize> {
        self.flush(below)?;
        let count = self.tls.writer().write(bytes)?;
        self.unwritten = count;
        self.flush_some(below)?;
        Ok(count)
    }

    pub(super) fn flush(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(below) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(reason),
            }
        }
        self.unwritten = 0;
        Ok(())
    }

    /// As `flush`; what does not fit goes when the stream below says that it is writable.
    pub(super) fn flush_some(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        match self.flush(below) {
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Says that nothing more comes; whatever does not fit waits here.
    pub(super) fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        self.tls.send_close_notify();
        self.flush(below)
    }

    /// How many of the bytes that were taken to be written may wait here.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten
    }
}

/// Read from below before the others have their turn, whatever it holds: enough to fill any space with full records.
const RECEIVED_AT_ONCE: usize = 256 * 1024;
/// What a peer may send until TLS is agreed on: a chain of certificates, and little more.
const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;
