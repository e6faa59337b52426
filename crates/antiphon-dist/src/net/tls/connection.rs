//! One TLS connection, as the layer of a byte stream: calls rustls in the right order.
//!
//! Invariants:
//! - An error that TLS itself has found is a [`TlsFault`] of the kind `Other`. If the stream below has ended without a
//!   close of TLS, the error is a fault too, and has the kind of that end. So a node can tell the two apart.
//! - The data before an error is read before the error.
//! - Bytes that were accepted and do not fit into the stream below wait here. Until they are written, no more bytes are
//!   accepted.

use std::io::{self, Read, Write};

use antiphon_sched::{Duplex, Layered};
use antiphon_wire::{EXPORTER_LABEL, TlsFault};
use rustls::{Connection, Error, InvalidMessage};

use super::verifier::fault_of;
use crate::certificates::Fingerprint;
use crate::node::OverTls;

/// Bytes that one read takes from the stream below, so that one peer does not delay others. Full records of this size
/// fill every buffer.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Bytes that a peer may send in the handshake: enough for a chain of certificates.
const HANDSHAKE_BYTES_MAX: usize = 32 * 1024;

pub(in crate::net) struct TlsConnection {
    tls: Connection,
    /// Bytes that the peer may still send in the handshake; `None` when the handshake is complete.
    budget: Option<usize>,
    /// The fault that ends the connection, after all data before it was read.
    failed: Option<TlsFault>,
    /// Accepted bytes that may not be written yet.
    unwritten: usize,
}

impl TlsConnection {
    /// A connection that accepts up to `write_bytes_max` bytes in one write.
    pub(super) fn new(mut tls: Connection, write_bytes_max: usize) -> Self {
        tls.set_buffer_limit(Some(write_bytes_max));
        Self { tls, budget: Some(HANDSHAKE_BYTES_MAX), failed: None, unwritten: 0 }
    }

    /// Whether no byte of the peer was read yet.
    pub(in crate::net) fn is_untouched(&self) -> bool {
        self.budget == Some(HANDSHAKE_BYTES_MAX)
    }

    pub(in crate::net) fn is_server(&self) -> bool {
        matches!(self.tls, Connection::Server(_))
    }

    /// The exporter and the peer's certificate of a complete handshake.
    pub(in crate::net) fn over_tls(&self) -> io::Result<OverTls> {
        self.export().map_err(|reason| io::Error::other(fault_of(&reason)))
    }

    fn export(&self) -> Result<OverTls, Error> {
        let presented = self.tls.peer_certificates().and_then(|chain| chain.first());
        let certificate = presented.map(|own| Fingerprint::of(own));
        let certificate = certificate.ok_or(Error::NoCertificatesPresented)?;
        let exporter = self.tls.export_keying_material([0; 32], EXPORTER_LABEL, None)?;
        Ok(OverTls { exporter, certificate })
    }

    /// Continues the handshake as far as data has arrived.
    fn handshake(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
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

    /// Reads once from the stream below, and decrypts the records.
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

    /// Sends the alert of a failure to the peer, as far as it can be written at once. Returns the fault as an error.
    fn fail(&mut self, below: &mut dyn Duplex, reason: &Error) -> io::Error {
        let is_no_tls = matches!(reason, Error::InvalidMessage(InvalidMessage::InvalidContentType));
        let fault = if is_no_tls && self.is_untouched() { TlsFault::OneSided } else { fault_of(reason) };
        tracing::debug!(%reason, "TLS failed");
        drop(self.flush(below));
        io::Error::other(fault)
    }

    /// As `flush`, but without an error for bytes that do not fit. They wait until the stream below is writable.
    fn flush_some(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        match self.flush(below) {
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }
}

impl Layered for TlsConnection {
    fn open(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        match self.handshake(below) {
            // A peer without TLS most often closes the connection. The system then reports a reset, or the end of the stream.
            Err(reason) if TlsFault::of(&reason).is_none() && reason.kind() != io::ErrorKind::WouldBlock => {
                tracing::debug!(%reason, "the peer closed the connection during the TLS handshake");
                Err(io::Error::new(reason.kind(), TlsFault::Broken))
            }
            result => result,
        }
    }

    fn read(&mut self, below: &mut dyn Duplex, space: &mut [u8]) -> io::Result<usize> {
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
            if received >= READ_BYTES_MAX {
                // A peer can send records without content for ever.
                end = Some(io::ErrorKind::Interrupted.into());
                break;
            }
            match self.receive(below) {
                Ok(count) => received += count,
                // The records before a bad one are valid: their data is read first.
                Err(reason) if self.failed.is_none() && TlsFault::of(&reason).is_some() => {
                    self.failed = TlsFault::of(&reason)
                }
                Err(reason) if filled == 0 => return Err(reason),
                Err(_) => break,
            }
        }
        // TLS may have responses of its own to send. If data was read, a failure to send them does not matter.
        let flushed = self.flush_some(below);
        match end {
            _ if filled > 0 => Ok(filled),
            Some(reason) => Err(reason),
            None => flushed.map(|()| 0),
        }
    }

    fn write(&mut self, below: &mut dyn Duplex, bytes: &[u8]) -> io::Result<usize> {
        self.flush(below)?;
        let count = self.tls.writer().write(bytes)?;
        self.unwritten = count;
        self.flush_some(below)?;
        Ok(count)
    }

    fn flush(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
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

    fn finish(&mut self, below: &mut dyn Duplex) -> io::Result<()> {
        self.tls.send_close_notify();
        self.flush(below)
    }

    fn unwritten(&self) -> usize {
        self.unwritten
    }
}
