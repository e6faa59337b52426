//! The replacement of this node's credentials while it runs.
//!
//! Invariant: a connection that was proven with credentials of before is replaced by another one, or is closed after the
//! time of `peer_timeout`. Its session continues.

use antiphon_sched::NodeId;

use super::NodeCore;
use super::driver::{Driver, Output};
use super::timers::NodeTimer;
use crate::credentials::{Credentials, ReloadError};
use crate::error::NodeError;

impl NodeCore {
    /// Replaces the secrets and the certificates of this node, at the next tick.
    pub(crate) fn reload(&mut self, credentials: Credentials) -> Result<(), ReloadError> {
        let profile = &self.cx.settings.profile;
        if credentials.suites != profile.suites
            || credentials.keyring.is_empty() != profile.keyring.is_empty()
        {
            return Err(ReloadError::Protection);
        }
        let ip = self.cx.settings.location.addr().ip();
        if !ip.is_loopback() && credentials.is_weak {
            return Err(NodeError::WeakSecret { ip }.into());
        }
        self.new_credentials = Some(credentials);
        Ok(())
    }

    /// Uses the new credentials, if there are any. Handshakes that have begun with those of before are repeated.
    pub(super) fn use_new_credentials(&mut self, driver: &mut impl Driver) {
        let Some(credentials) = self.new_credentials.take() else { return };
        self.cx.settings.set_credentials(&credentials);
        if let Some(tls) = credentials.tls {
            driver.output(Output::UseTls(tls));
        }
        for conn in self.cx.connections.in_handshake() {
            self.fail_conn(conn, driver);
        }
        self.cx.connections.set_outdated(self.cx.now);
        let connected = self.peers.iter().filter(|peer| {
            peer.peer_session.as_ref().is_some_and(|peer_session| peer_session.conn.is_some())
        });
        let connected: Vec<NodeId> = connected.map(|peer| peer.node).collect();
        connected.into_iter().for_each(|node| self.renew(node));
        self.cx.timers.add(self.cx.now + self.cx.settings.limits().lost_after, NodeTimer::Credentials);
        tracing::info!("the node uses new secrets and certificates");
    }

    /// Closes the connections that were not replaced since the credentials were. Their sessions try to connect again.
    pub(super) fn on_credentials_due(&mut self, driver: &mut impl Driver) {
        for conn in self.cx.connections.outdated_for(self.cx.settings.limits().lost_after, self.cx.now) {
            self.on_closed(conn, driver);
        }
    }
}
