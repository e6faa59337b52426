//! The handshakes of an endpoint, and how it attaches a proven connection to a session.

use antiphon_wire::{
    Admission, Deframer, Handshake, HandshakeError, HandshakeStep, NodeId, ProvenConnection, Refusal,
    Session, Time,
};

use crate::endpoint::{EndpointPeer, SessionEndpoint};
use crate::machine::{MachineOutput, Outputs, SimConn};
use crate::workload::Workload;

impl SessionEndpoint {
    /// Advances a handshake as far as the input allows. Returns the peer when the connection is proven and attached.
    pub(super) fn advance_handshake(
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
                        Ok(held) => handshake.prove(&self.profile, held, reply)?,
                        Err(refusal) => return Err(refused(handshake, refusal, reply)),
                    }
                    continue;
                }
                HandshakeStep::Introduced => {
                    let hello = handshake.peer().expect("an introduced peer has sent its hello");
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
                    Ok(held) => handshake.confirm(&self.profile, &held, reply)?,
                    Err(refusal) => return Err(refused(handshake, refusal, reply)),
                },
                HandshakeStep::Done(connection) => connection,
            };
            // Both proofs are sent. The peer would read a refusal as a record, so the connection is only closed.
            return self.attach(now, conn, connection, out).map(Some).map_err(HandshakeError::Refused);
        }
    }

    fn is_dial(&self, conn: SimConn) -> bool {
        self.dials.iter().any(|dial| dial.conn == Some(conn))
    }

    /// Attaches a proven connection to the session with its peer; begins that session if there is none.
    fn attach(
        &mut self,
        now: Time,
        conn: SimConn,
        connection: Box<ProvenConnection>,
        out: &mut Outputs,
    ) -> Result<NodeId, Refusal> {
        let node = connection.peer().node;
        match Session::admit(self.peers.get(&node).map(|peer| &peer.session), &self.epochs, &connection) {
            Admission::Continues => {}
            Admission::Begins => {
                self.end_session(node, out);
                let session = Session::begin(now, &self.profile.limits, self.profile.node, &connection);
                let workload = Workload::new(self.received.next_session(), self.profile.node);
                self.peers.insert(node, EndpointPeer { session, conn: None, workload });
            }
            Admission::Refused(refusal) => return Err(refusal),
        }
        let peer = self.peers.get_mut(&node).expect("a session with the peer exists or was just begun");
        peer.session.connected(now, connection).expect("the session admitted the connection");
        self.dials.iter_mut().filter(|dial| dial.node == Some(node)).for_each(|dial| dial.renew = false);
        if let Some(old) = peer.conn.replace(conn) {
            self.conns.remove(&old);
            self.dials.iter_mut().filter(|dial| dial.conn == Some(old)).for_each(|dial| dial.conn = None);
            out.push(MachineOutput::Close(old));
        }
        if self.next_send.is_none() && !self.config.send_every.is_zero() {
            self.next_send = Some(now + self.rng.span(self.config.send_every * 2));
        }
        Ok(node)
    }
}

fn refused(handshake: &mut Handshake, refusal: Refusal, reply: &mut Vec<u8>) -> HandshakeError {
    handshake.refuse(refusal, reply);
    HandshakeError::Refused(refusal)
}
