//! How an endpoint shakes hands, and what it does with a proven connection.

use antiphon_wire::{
    Admission, Deframer, Handshake, HandshakeError, HandshakeStep, NodeId, ProvenConnection, Refusal,
    Session, Time,
};

use crate::endpoint::{EndpointPeer, SessionEndpoint};
use crate::machine::{MachineOutput, Outputs, SimConn};
use crate::workload::Workload;

impl SessionEndpoint {
    /// Goes on with a handshake; answers the peer once the connection is proven and taken.
    pub(super) fn shake(
        &mut self,
        now: Time,
        conn: SimConn,
        handshake: &mut Handshake,
        input: &mut Deframer,
        reply: &mut Vec<u8>,
        out: &mut Outputs,
    ) -> Result<Option<NodeId>, HandshakeError> {
        loop {
            let step = handshake.advance(&self.profile, input, reply)?;
            let node = handshake.peer().map(|hello| hello.node);
            let session = node.and_then(|node| self.peers.get(&node)).map(|peer| &peer.session);
            let connection = match step {
                HandshakeStep::Wait => return Ok(None),
                HandshakeStep::Introduced if self.is_dial(conn) => {
                    self.dials
                        .iter_mut()
                        .filter(|dial| dial.conn == Some(conn))
                        .for_each(|dial| dial.node = node);
                    match Session::prove_to(session, &mut self.epochs, handshake) {
                        Ok(holding) => handshake.prove(&self.profile, holding, reply)?,
                        Err(refusal) => return Err(refused(handshake, refusal, reply)),
                    }
                    continue;
                }
                HandshakeStep::Introduced => {
                    let hello = handshake.peer().expect("it was introduced");
                    match Session::answer_to(session, &self.epochs, hello) {
                        Ok(resume_state) => {
                            let entropy = self.rng.entropy();
                            handshake.answer(&self.profile, entropy, resume_state, reply)?;
                        }
                        Err(refusal) => return Err(refused(handshake, refusal, reply)),
                    }
                    continue;
                }
                HandshakeStep::Proven => match Session::confirm_to(session, &mut self.epochs, handshake) {
                    Ok(holding) => handshake.confirm(&self.profile, &holding, reply)?,
                    Err(refusal) => return Err(refused(handshake, refusal, reply)),
                },
                HandshakeStep::Done(connection) => connection,
            };
            // Both proofs are sent: a refusal would be taken for a record, so the connection is only closed.
            return self.take(now, conn, connection, out).map(Some).map_err(HandshakeError::Refused);
        }
    }

    fn is_dial(&self, conn: SimConn) -> bool {
        self.dials.iter().any(|dial| dial.conn == Some(conn))
    }

    /// A connection is proven: gives it to its session, or begins one.
    fn take(
        &mut self,
        now: Time,
        conn: SimConn,
        connection: Box<ProvenConnection>,
        out: &mut Outputs,
    ) -> Result<NodeId, Refusal> {
        let node = connection.peer().node;
        match Session::admit(self.peers.get(&node).map(|peer| &peer.session), &self.epochs, &connection) {
            Admission::Takes => {}
            Admission::Begins => {
                self.end_session(node, out);
                let session = Session::begin(now, &self.profile.limits, self.profile.node, &connection);
                let workload = Workload::new(self.heard.next_session(), self.profile.node);
                self.peers.insert(node, EndpointPeer { session, conn: None, workload });
            }
            Admission::Refused(refusal) => return Err(refusal),
        }
        let peer = self.peers.get_mut(&node).expect("it was there, or was just begun");
        peer.session.connected(now, connection).expect("it was admitted");
        self.dials.iter_mut().filter(|dial| dial.node == Some(node)).for_each(|dial| dial.renews = false);
        if let Some(old) = peer.conn.replace(conn) {
            self.conns.remove(&old);
            self.dials.iter_mut().filter(|dial| dial.conn == Some(old)).for_each(|dial| dial.conn = None);
            out.push(MachineOutput::Close(old));
        }
        if self.speaks_at.is_none() && !self.config.speaks_every.is_zero() {
            self.speaks_at = Some(now + self.rng.span(self.config.speaks_every * 2));
        }
        Ok(node)
    }
}

fn refused(handshake: &mut Handshake, refusal: Refusal, reply: &mut Vec<u8>) -> HandshakeError {
    handshake.refuse(refusal, reply);
    HandshakeError::Refused(refusal)
}
