//! How requests are opened, and how each completes once.

use std::any::Any;

use crate::error::{AskError, PayloadError, Undelivered};
use crate::id::Key;
use crate::remote::Notice;
use crate::request::dropped::DroppedReply;
use crate::request::pending::{ReplyHandler, RequestId};
use crate::scheduler::{Core, NO_REQUEST, TimerKey, TimerPurpose, log_panic};

impl Core {
    /// Opens a request of `owner`, which `handler` makes from `answer`. `answer` comes back when the owner has as many open
    /// requests as it may.
    pub(crate) fn open_request<A>(
        &mut self,
        owner: Key,
        answer: A,
        handler: impl FnOnce(A) -> Box<dyn ReplyHandler>,
    ) -> Result<RequestId, A> {
        if !matches!(self.open_one(owner), Some(Ok(()))) {
            return Err(answer);
        }
        let Some((requests, head)) = self.requests_of(owner) else { return Err(answer) };
        Ok(requests.open(owner, handler(answer), head))
    }

    /// Opens a request that no actor owns.
    pub(crate) fn open_ownerless_request(&mut self, handler: Box<dyn ReplyHandler>) -> RequestId {
        self.requests_mut().open_ownerless(handler)
    }

    pub(crate) fn set_request_timeout(&mut self, request_id: RequestId, timeout: std::time::Duration) {
        let timer = self.start_timer(timeout, TimerPurpose::Request(request_id));
        self.requests_mut().set_timer(request_id, timer);
    }

    fn close_request(&mut self, request_id: RequestId) -> Option<(Key, Box<dyn ReplyHandler>)> {
        let (closed, head) = self.requests_mut().close(request_id)?;
        self.after_request_closed(request_id, closed.timer, closed.is_remote);
        if let Some(owner) = closed.owner {
            let mailbox = self.any_mailbox(owner)?;
            mailbox.close_one();
            if let Some(head) = head {
                *mailbox.newest_request() = head;
            }
        }
        // The handlers of ownerless requests ignore the key.
        Some((closed.owner.unwrap_or(Key::from_bits(u64::MAX)), closed.handler))
    }

    fn after_request_closed(&mut self, request_id: RequestId, timer: Option<TimerKey>, is_remote: bool) {
        if let Some(timer) = timer {
            self.cancel_timer(timer);
        }
        if is_remote {
            self.notice(Notice::RequestClosed { request_id });
        }
    }

    /// Completes a request of this loop.
    pub(crate) fn complete_request<R: 'static>(
        &mut self,
        request_id: RequestId,
        value: R,
    ) -> Result<(), Undelivered> {
        let mut value: Option<R> = Some(value);
        let value: &mut dyn Any = &mut value;
        match self.requests().fits(request_id, value) {
            None => return Err(Undelivered::NoActor),
            Some(Err(expected)) => {
                return Err(PayloadError::wrong_type(expected, std::any::type_name::<R>()).into());
            }
            Some(Ok(())) => {}
        }
        if let Some((owner, handler)) = self.close_request(request_id) {
            handler.complete(self, owner, value);
        }
        Ok(())
    }

    /// Closes a request of this loop with an error. Does nothing if the request is already closed.
    pub(crate) fn fail_request(&mut self, request_id: RequestId, reason: AskError) {
        if let Some((owner, handler)) = self.close_request(request_id) {
            tracing::debug!(target: "antiphon::requests", actor = %owner, reply = handler.type_name(), %reason, "a request has failed");
            handler.fail(self, owner, reason);
        }
    }

    /// Closes the requests of all threads: they get `NoLoop`.
    pub(crate) fn fail_thread_requests(&mut self) {
        for request_id in self.requests().of_threads() {
            self.fail_request(request_id, AskError::NoLoop);
        }
    }

    /// Closes a request of this loop without an answer.
    pub(crate) fn abandon_request(&mut self, request_id: RequestId) {
        if let Some((_, handler)) = self.close_request(request_id) {
            log_panic(|| drop(handler));
        }
    }

    /// Closes the requests of an actor that has ended: the list that begins with `head`.
    pub(crate) fn abandon_requests(&mut self, mut head: u32) {
        while let Some(request_id) = self.requests().first(head)
            && let Some((closed, next)) = self.requests_mut().close(request_id)
        {
            self.after_request_closed(request_id, closed.timer, closed.is_remote);
            log_panic(|| drop(closed.handler));
            head = next.unwrap_or(NO_REQUEST);
        }
    }

    /// Completes a request of this loop with bytes from another node.
    pub(crate) fn complete_request_encoded(
        &mut self,
        request_id: RequestId,
        type_name: &str,
        body: &[u8],
    ) -> Result<(), Undelivered> {
        let Some(expected) = self.requests().expected(request_id) else { return Err(Undelivered::NoActor) };
        if expected.type_name != type_name {
            let error = PayloadError::wrong_type(expected.type_name, type_name);
            self.fail_request(request_id, AskError::Reply(error.clone()));
            return Err(error.into());
        }
        (expected.decode)(self, request_id, body)
    }

    /// Handles a `ReplyTo` that was dropped in this loop without a reply.
    pub(crate) fn reply_dropped(&mut self, (node, request_id): DroppedReply) {
        if node == self.node_id() {
            self.fail_request(request_id, AskError::Dropped);
        } else {
            self.notice(Notice::ReplyDropped { node, request_id, reason: AskError::Dropped });
        }
    }
}
